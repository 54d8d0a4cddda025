"""A model behind an OpenAI-compatible endpoint; `thinking_mode` is auto, long or short in `chat_template_kwargs`.

python -m pipelines.serve --model runs/demo/bpo/model
"""

from __future__ import annotations

import errno
import logging
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bimode.config import ClusterConfig
from bimode.errors import ConfigError, keyed
from pipelines.failure import StageFailed, causes
from pipelines.progress import say

if TYPE_CHECKING:
    from bimode.codec import ModelKind

LOGGERS = ("ray.serve", "ray.llm")


def serve_model(model: Path, host: str, port: int, gpus: int) -> None:
    """Serves until Ctrl-C; the model is read where it lies. Raises ConfigError before anything starts."""
    from cluster.session import connect, prepare_process

    config = ClusterConfig(rollout_gpus=float(gpus))
    prepare_process(config)
    _port_is_free(host, port)
    kind = servable(model)
    with connect(config):
        from ray import serve

        from actors.serving import build_app

        for logger in LOGGERS:  # Ray Serve sets them up when it is imported
            logging.getLogger(logger).setLevel(logging.ERROR)
        name = served_name(model)
        say(f"serve: loading {model}")
        serve.start(http_options={"host": host, "port": port})
        try:
            serve.run(build_app(model.absolute(), kind, name=name, gpus=gpus), name=name, route_prefix="/")
            say(f'serve: ready at http://{host}:{port}/v1, model="{name}"; Ctrl-C ends it')
            while True:
                time.sleep(3600)
        except RuntimeError as error:
            cause = list(causes(error))[-1]
            raise StageFailed(f"serve: {cause} (logs: /tmp/ray/session_latest/logs/serve)") from error
        finally:
            serve.shutdown()


def servable(model: Path) -> ModelKind:
    """`text` or `image_text`. Raises ConfigError unless tokenizer and template know the modes."""
    from bimode.codec import Codec

    with keyed("--model"):
        codec = Codec(model)
        template = codec.tokenizer.chat_template
        if not template or "thinking_mode" not in template:
            raise ConfigError("--model", model, "its chat template has no thinking_mode; serve the model/ of a run's stage")
        _ = codec.tokens  # proves that one token decides the mode
        return codec.kind


def served_name(model: Path) -> str:
    """The directory's name; of DIR/bpo/model it is `bpo`."""
    path = model.absolute()
    return path.parent.name if path.name == "model" else path.name


def _port_is_free(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, UnicodeError) as error:
            if not isinstance(error, OSError) or isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
                raise ConfigError("--host", host, "no address of this machine; use 127.0.0.1 or 0.0.0.0") from None
            raise ConfigError("--port", port, f"cannot listen on {host}: {error.strerror}; choose another") from None


if __name__ == "__main__":
    from pipelines.cli import main

    main("serve")
