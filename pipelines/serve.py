"""A model behind an OpenAI-compatible endpoint; `thinking_mode` is auto, long or short in
`chat_template_kwargs`.

python -m pipelines.serve --model runs/demo/bpo/model
"""

from __future__ import annotations

import errno
import logging
import os
import re
import socket
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bimode.config.endpoint import check_access
from bimode.config.recipe import ClusterConfig
from bimode.errors import ConfigError, config_errors
from bimode.models.import_without_gc import import_without_gc
from bimode.storage.run_dir import read_json
from pipelines.failure import StageFailed, causes
from pipelines.progress import log_line
from pipelines.serve_stop import wait_for_stop

if TYPE_CHECKING:
    from bimode.config.endpoint import EndpointConfig
    from bimode.renderer import Renderer

LOGGERS = ("ray.serve", "ray.llm", "vllm")


def serve_model(model: Path, endpoint: EndpointConfig) -> None:
    """Serve until Ctrl-C or SIGTERM; the model is read where it lies. Raises ConfigError before
    anything is deployed.

    Ends in SystemExit with the code of `wait_for_stop`.

    On a cluster that was there before, others may serve too: the application gets a path of its
    own, `/NAME`, and at the end it alone is deleted. The endpoint's name is the model directory's
    by default.
    """
    from cluster.api_keys import take_api_keys
    from cluster.session import connect, joins_cluster, log_folder, prepare_process

    name, keys = endpoint.name or served_name(model), take_api_keys()
    endpoint = replace(endpoint, name=name, api_keys=keys)
    host, port, gpus = endpoint.host, endpoint.port, endpoint.gpus
    config, is_shared = ClusterConfig(rollout_gpus=float(gpus)), joins_cluster()
    prepare_process(config)
    _is_a_name(name)
    if not is_shared:
        _port_is_free(host, port)
    check_access(endpoint)
    renderer = servable(model)
    _length_fits(model, endpoint.max_model_len)
    log_line(f"serve: {'joining the Ray cluster' if is_shared else 'starting Ray'}")
    with connect(config):
        if not is_shared:  # a cluster may grow
            _has_gpus(gpus)
        from ray import serve

        for (
            logger
        ) in LOGGERS:  # those of Ray are set up when Serve is imported; vLLM has its say when it is
            logging.getLogger(logger).setLevel(logging.ERROR)
        if is_shared:
            _has_room(name, host, port)
        build_app = import_without_gc(
            "actors.serving.app"
        ).build_app  # and vLLM, which takes seconds
        path = f"/{name}" if is_shared else ""
        log_line(
            f"serve: loading {model}{'' if gpus else ', which takes a minute or more on a CPU'}"
        )
        serve.start(http_options={"host": host, "port": port})
        try:
            app = build_app(renderer, endpoint)
            handle = serve.run(app, name=name, route_prefix=path or "/")
            log_line(
                f'serve: ready at http://{host}:{port}{path}/v1, model="{name}"; Ctrl-C ends it'
            )
            code = wait_for_stop(handle, endpoint.drain_s)
        except RuntimeError as error:
            cause = list(causes(error))[-1]
            raise StageFailed(f"serve: {cause} (logs: {log_folder() / 'serve'})") from error
        finally:
            if is_shared:
                with suppress(TimeoutError):  # it waits 60 s; Serve goes on without it
                    serve.delete(name)
    log_line("serve: stopped")
    raise SystemExit(code)  # a ready server makes no error of a signal


def servable(model: Path) -> Renderer:
    """What reads the model's text and images. Raises ConfigError unless its tokenizer and template
    know the modes.
    """
    from bimode.renderer import Renderer

    with config_errors("--model"):
        renderer = Renderer(model)
        template = renderer.tokenizer.chat_template
        if not template or "thinking_mode" not in template:
            raise ConfigError(
                "--model",
                model,
                "its chat template has no thinking_mode; serve the model/ of a run's stage",
            )
        renderer.check_template()
        _ = renderer.tokens  # proves that one token decides the mode
        return renderer


def served_name(model: Path) -> str:
    """The directory's name; of DIR/bpo/model it is `bpo`."""
    path = Path(os.path.abspath(model))  # which knows the name of `..`
    return path.parent.name if path.name == "model" else path.name


def _length_fits(model: Path, max_model_len: int) -> None:
    """vLLM would say so after a minute, and to its log."""
    config = read_json(model / "config.json") or {}
    most = config.get("text_config", config).get(
        "max_position_embeddings"
    )  # a table, as `servable` has found
    if most and max_model_len > most:
        raise ConfigError(
            "--max-model-len",
            max_model_len,
            f"the model's config allows {most} tokens; use at most so many",
        )


def _has_gpus(gpus: int) -> None:
    """Serve would wait for them for ever, or vLLM end in a stack where torch does not see one."""
    from cluster.placement import node_resources

    there = sum(node.get("GPU", 0.0) for node in node_resources())
    if gpus > there:
        raise ConfigError(
            "--gpus", gpus, f"Ray sees {there:g} here; use at most so many, 0 serves on the CPU"
        )
    if gpus:
        from actors.devices import check_role

        with config_errors("--gpus"):
            check_role("rollout", {"num_cpus": 0, "num_gpus": 1})


def _is_a_name(name: str) -> None:
    """It becomes the name of an application and a part of its URL."""
    if not re.fullmatch(r"[\w.-]*[\w-][\w.-]*", name, re.ASCII):  # a client takes `..` out of a URL
        raise ConfigError(
            "--name",
            name,
            "is a part of the URL on a cluster; use letters, digits, dots, - and _, not dots alone",
        )


def _has_room(name: str, host: str, port: int) -> None:
    """On a cluster where Serve is running: it has one address, and an application of an equal name
    would be replaced.
    """
    from ray import serve
    from ray.serve.context import _get_global_client  # no public call tells where Serve listens

    if (client := _get_global_client(raise_if_no_controller_running=False)) is None:
        return
    there = client.http_config
    if (there.host, there.port) != (host, port):
        fix = (
            f"Serve listens elsewhere on this cluster already; use --host {there.host} --port"
            f" {there.port}"
        )
        raise ConfigError("--host and --port", f"{host}:{port}", fix)
    if name in serve.status().applications:
        python = f"""python -c 'from ray import serve; serve.delete("{name}")'"""
        end = f"{python}, with RAY_ADDRESS as here"
        raise ConfigError(
            "--name",
            name,
            f"is served on this cluster already; choose another, or end that one: {end}",
        )


def _port_is_free(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, UnicodeError) as error:
            if (
                not isinstance(error, OSError)
                or isinstance(error, socket.gaierror)
                or error.errno == errno.EADDRNOTAVAIL
            ):
                raise ConfigError(
                    "--host", host, "no address of this machine; use 127.0.0.1 or 0.0.0.0"
                ) from None
            raise ConfigError(
                "--port", port, f"cannot listen on {host}: {error.strerror}; choose another"
            ) from None


if __name__ == "__main__":
    from pipelines import main

    main("serve")
