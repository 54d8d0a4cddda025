"""One translation between text and token ids for every stage: prompts with their images, responses,
and back.

Works for an image-text directory (processor) and a text directory (tokenizer) alike; which one it
is, is read from the model's config, and anything else is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bimode.errors import ConfigError, RefusedPromptError, check_name, config_errors
from bimode.inputs.pictures import open_picture, shown_size
from bimode.inputs.text import ControlTokens, control_tokens
from bimode.models.families import Family, family_of
from bimode.models.import_without_gc import import_transformers
from bimode.models.model_files import check_model_files, foreign
from bimode.models.template_check import check_templates
from bimode.modes import TEMPLATE_WORDS, Mode, ModeTokens, mode_tokens

if TYPE_CHECKING:
    from torch import Tensor

ModelKind = Literal["text", "image_text"]
OF_A_RUN = (
    "model",
    "bpo/model",
    "anneal/model",
)  # of a stage's directory; of a run's, the last first


PROMPTS_KEPT = 256  # with images of any size: each runs the image processor


def model_kind(path: Path) -> ModelKind:
    """Read config.json of a Hugging Face directory. Raises ConfigError for anything but the two
    kinds, all of it readable.
    """
    with config_errors("model"):
        if not (path / "config.json").is_file():
            lacks = "no config.json there" if path.is_dir() else "no such directory"
            raise ConfigError("model", path, f"{lacks}; {_instead(path)}")
        check_readable(path)
        check_model_files(path)
    check_name("model", path.absolute())
    transformers = import_transformers()
    with foreign(path, "transformers cannot read it"):
        config = transformers.AutoConfig.from_pretrained(path, trust_remote_code=False)
    if type(config) in transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        return "image_text"
    if type(config) in transformers.MODEL_FOR_CAUSAL_LM_MAPPING:
        return "text"
    raise ConfigError(
        "model", path, f"model_type {config.model_type} is neither text nor image-text"
    )


def check_readable(path: Path) -> None:
    """Raise PermissionError for a file of a model's directory that this user may not read; an
    engine would fail after a minute.
    """
    for file in sorted(path.iterdir()):
        if file.is_file():
            file.open("rb").close()


def _instead(path: Path) -> str:
    """What to give instead of `path`, which is no model: that of the stage or of the run that it
    is, or that has not ended.
    """
    near = next(
        (path / inside for inside in OF_A_RUN if (path / inside / "config.json").is_file()), None
    )
    if path.name == "model" and (path.parent / "claim.json").is_file():
        return f"{path.parent.name} has not ended; its own command continues it"
    return f"did you mean {near}?" if near else "give a Hugging Face model directory"


def load_model(path: Path, dtype: Any) -> Any:
    """Load the model in `path` by the plain transformers class of its kind, on the CPU, in
    `dtype`.
    """
    transformers = import_transformers()
    is_pictured = model_kind(path) == "image_text"
    loader = (
        transformers.AutoModelForImageTextToText
        if is_pictured
        else transformers.AutoModelForCausalLM
    )
    with foreign(path, "its weights cannot be loaded"):
        return loader.from_pretrained(
            path, dtype=dtype, trust_remote_code=False, use_safetensors=True
        )


def as_saved(model: Any, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return `tensors` of `model` under the names, and in the shapes, of the files that it was
    loaded from: those that an engine knows.
    """
    from transformers.core_model_loading import revert_weight_conversion

    return dict(revert_weight_conversion(model, dict(tensors)))


def save_model(model: Any, path: Path, weights: Mapping[str, Any] | None = None) -> None:
    """`model` (with `weights` instead of its own) as safetensors in `path`, which others may read
    as they may all else of a run: safetensors gives them no permission, so that nobody but who had
    trained a model could serve it. The names of code that its base had are left out.
    """
    vars(model.config).pop("auto_map", None)
    model.save_pretrained(path, state_dict=weights)
    for file in path.glob("*.safetensors"):
        file.chmod((path / "config.json").stat().st_mode)


class Renderer:
    """Text <-> ids for one model directory. Picklable: it holds the path and loads on first use."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._prompts: dict[object, tuple[int, ...]] = {}

    def __reduce__(self) -> tuple[type[Renderer], tuple[Path]]:
        return Renderer, (self.path,)

    @cached_property
    def kind(self) -> ModelKind:
        return model_kind(self.path)

    @cached_property
    def processor(self) -> Any:
        """The processor of an image-text model, the tokenizer of a text model.

        Raises ConfigError if its files are missing, and for an image-text model of an unknown
        family.
        """
        is_pictured = (
            self.kind == "image_text"
        )  # asked before an import of seconds: what is no model is refused at once
        _ = self.family
        transformers = import_transformers()
        loader, files = transformers.AutoTokenizer, "tokenizer.json and tokenizer_config.json"
        if is_pictured:
            loader, files = (
                transformers.AutoProcessor,
                f"{files} and processor_config.json (or preprocessor_config.json)",
            )
        unread = f"no tokenizer or processor there that transformers can read; add {files}"
        with foreign(self.path, unread):
            found = loader.from_pretrained(
                self.path, local_files_only=True, trust_remote_code=False
            )
        tokenizer = getattr(found, "tokenizer", found)
        tokenizer.init_kwargs.pop("auto_map", None)  # a copy of it names no code
        if len(tokenizer) <= len(tokenizer.all_special_ids):  # without files it may be made empty
            raise ConfigError("model", self.path, unread)
        return found

    @cached_property
    def config(self) -> Any:
        """The model's config, as transformers reads it."""
        return import_transformers().AutoConfig.from_pretrained(self.path, trust_remote_code=False)

    @cached_property
    def family(self) -> Family:
        """How this kind of model differs from others. Raises ConfigError for an unknown one."""
        return family_of(self.path, self.config.model_type, self.kind == "image_text")

    @cached_property
    def tokenizer(self) -> Any:
        return getattr(self.processor, "tokenizer", self.processor)

    @cached_property
    def tokens(self) -> ModeTokens:
        return mode_tokens(self.tokenizer)

    @cached_property
    def max_forced(self) -> int:
        """The largest number of tokens that a mode forces after ``<think>``."""
        return max(len(self.tokens.trigger(mode)) for mode in Mode) - 1

    @cached_property
    def eos_id(self) -> int:
        """The end-of-turn token of the chat template."""
        return int(self.tokenizer.convert_tokens_to_ids("<|im_end|>"))

    @cached_property
    def pad_id(self) -> int:
        pad = self.tokenizer.pad_token_id
        return int(pad if pad is not None else self.eos_id)

    @cached_property
    def placeholder_ids(self) -> tuple[int, ...]:
        """Ids that stand for images (or video); a response must not hold any, or the model would
        look for a picture.
        """
        if self.kind == "text":
            return ()
        keys = ("image_token_id", "video_token_id")
        found = (getattr(self.config, key, None) for key in keys)
        return tuple(dict.fromkeys(id for id in found if isinstance(id, int)))

    @cached_property
    def control_tokens(self) -> ControlTokens:
        """The tokens that no text of a row or a request may become."""
        return control_tokens(self.processor)

    def check_text(self, question: str) -> None:
        """Raise RefusedPromptError if the tokenizer would read a control token in `question`."""
        _refuse("question", self.control_tokens.first_in(question))

    def check_template(self) -> None:
        """Raise ConfigError for a chat template that takes too long or too much to render."""
        check_templates(self.path, self.processor, self.tokenizer)

    def prompt_text(self, question: str, num_images: int, mode: Mode = Mode.AUTO) -> str:
        """The chat prompt with the trigger of `mode`; image markers stand before the question.

        Raises ConfigError for images that a text model is given, and for a control token in the
        question.
        """
        self.check_text(question)
        if num_images and self.kind == "text":
            raise ConfigError("model", self.path, "a text model was given a question with images")
        self.check_template()
        content = self.family.image * num_images + question
        return str(
            self.tokenizer.apply_chat_template(
                [{"role": "user", "content": content}],
                tokenize=False,
                add_generation_prompt=True,
                thinking_mode=TEMPLATE_WORDS[mode],
            )
        )

    def encode_prompt(self, question: str, images: Sequence[bytes]) -> tuple[int, ...]:
        """Ids up to and with ``<think>``, image placeholders expanded.

        Cached by the question and, if all images give equally many placeholders (one canvas size),
        by their number, else by their sizes or by the images themselves.
        """
        sizes: tuple[tuple[int, int], ...] = ()
        if self.family.from_sizes:
            sizes = tuple(shown_size(data) for data in images)
        pictured: object = len(images) if self._fixed_size else sizes or tuple(images)
        key = (question, pictured)
        if key not in self._prompts:
            text = self.prompt_text(question, len(images))
            if self.kind == "text":
                ids = self.tokenizer.encode(text, add_special_tokens=False)
            else:
                ids = self._expanded(text, images, sizes)
            if not self._fixed_size and len(self._prompts) >= PROMPTS_KEPT:
                self._prompts.pop(next(iter(self._prompts)))
            self._prompts[key] = tuple(ids)
        return self._prompts[key]

    def _expanded(
        self, text: str, images: Sequence[bytes], sizes: Sequence[tuple[int, int]]
    ) -> list[int]:
        if self.family.from_sizes:
            return self.family.ids_from_sizes(self.processor, text, sizes)
        pictures = [open_picture(data) for data in images]
        return self.family.expanded_ids(self.processor, text, pictures)

    def encode_unexpanded(self, question: str, num_images: int) -> tuple[int, ...]:
        """Return ids up to and with ``<think>`` with one placeholder an image, as an inference
        engine wants them.
        """
        return tuple(
            self.tokenizer.encode(self.prompt_text(question, num_images), add_special_tokens=False)
        )

    def num_prompt_tokens(self, question: str, images: Sequence[bytes]) -> int:
        """Return the length of `encode_prompt`, without making its ids if sizes are fixed."""
        if not self._fixed_size:
            return len(self.encode_prompt(question, images))
        unexpanded = len(self.encode_unexpanded(question, len(images)))
        if not images:
            return unexpanded
        added_by_one = len(self.encode_prompt("", images[:1])) - len(self.encode_unexpanded("", 1))
        return unexpanded + len(images) * added_by_one

    @cached_property
    def _fixed_size(self) -> bool:
        """True for text, and for LLaVA-like processors whose images all become the same number of
        tokens.
        """
        return self.kind == "text" or type(self.processor).__name__ == "LlavaProcessor"

    def encode_images(self, images: Sequence[bytes]) -> tuple[tuple[str, Tensor], ...]:
        """Return named tensors of the image processor, e.g. ``(("pixel_values", [n, 3, H, W]),)``;
        empty without images.
        """
        if not images:
            return ()
        pictures = [open_picture(data) for data in images]
        return self.family.image_tensors(self.processor, pictures)

    def encode_response(self, text: str) -> tuple[int, ...]:
        """Return ids of assistant text after its leading ``<think>``, with the end-of-turn token.

        Raises ConfigError for a control token in it, but for the tags of its think block.
        """
        _refuse("response", self.control_tokens.first_in_turn(text))
        ids = self.tokenizer.encode(text, add_special_tokens=False)
        if ids[0] != self.tokens.open:
            raise ValueError(f"an assistant text must begin with <think>: {text[:40]!r}")
        return (*ids[1:], self.eos_id)

    def decode_response(self, ids: Sequence[int]) -> str:
        """Return the text of response ids (after ``<think>``), without end-of-turn and padding."""
        kept = [i for i in ids if i not in (self.eos_id, self.pad_id)]
        return str(
            self.tokenizer.decode(
                kept, skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
        )


def _refuse(key: str, token: str) -> None:
    if token:
        fix = f"{token} is one of the model's tokenizer; take it out of the text"
        raise RefusedPromptError(key, "control_token", fix)
