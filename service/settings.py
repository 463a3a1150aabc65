"""Everything an operator may set.

Each field is a flag of `tiller serve` (`service.flags`), a variable and a key of the configuration file
(`service.configuration`). The docstring below it is the flag's help.
"""

from __future__ import annotations

import importlib.util
import ipaddress
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from steering.choices import Compatibility, DType
from steering.embedded import tiller_home
from steering.errors import InvalidRequest

Positive = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def _origin(text: str) -> str:
    """`text` as browsers send it. Raises ValueError for what no browser would."""
    parts = urlsplit(text)
    if text != "*" and (parts.scheme not in ("http", "https") or text != f"{parts.scheme}://{parts.netloc}"):
        raise ValueError("expected an origin such as https://example.org, without a path; or * for every site")
    return text.lower()


class Settings(BaseSettings):
    """One server: a model, its probes, where it listens and what a caller may ask for."""

    model_config = SettingsConfigDict(
        env_prefix="TILLER_",
        env_ignore_empty=True,
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
    )

    config: Path | None = None
    """TOML file of settings, as `max_queue = 512`; the environment (TILLER_<NAME>) is stronger, and flags most."""
    model: str = "smollm2-135m-instruct"
    """An embedded model, a Hugging Face id, or a local folder."""
    probes: Path | None = None
    """Folder of probe artefacts, `<name>/<version>/`. Unset: the probes shipped for the model, if there are any."""
    state: Path | None = None
    """Folder of what the server must not forget: policies, keys, jobs, uploaded probes. Unset: beside the models."""
    probe_compat: Compatibility = "exact"
    """How closely a probe must fit the model: exact, architecture or width."""
    host: str = "127.0.0.1"
    """Address to listen on. Anything but this machine itself needs a key (`tiller keys add`), or `allow_public`."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """TCP port; 0 takes any free one and says which."""
    allow_public: bool = False
    """Listen where other machines can reach the server, although it has no keys: anyone who can, may use it."""
    require_key: bool = False
    """Demand a key even while there is none. Otherwise one is demanded as soon as there is any."""
    allowed_host: tuple[str, ...] = ()
    """Names this server answers to besides localhost and addresses; unset and public: any. May be repeated."""
    cors_origin: tuple[Annotated[str, AfterValidator(_origin)], ...] = ()
    """Sites whose pages may use this server, as https://example.org; unset: none. May be repeated."""
    device: str = "auto"
    """cpu, cuda, cuda:1, balanced (several GPUs), or auto: CUDA where there is one."""
    dtype: DType = "auto"
    """float32, bfloat16, float16, or auto: float32 on CPU, the checkpoint's own elsewhere."""
    threads: Positive | None = None
    """Torch threads on CPU. Unset: the cores that are not busy at start-up."""
    slots: Positive = 16
    """Rows the model continues together; each joins and leaves between two steps."""
    row_tokens: Positive | None = None
    """Tokens a row may hold, prompt and continuation. Unset: 2048, or the model's context if that is shorter."""
    cache_tokens: Positive | None = None
    """Tokens all running rows may hold together. Unset: slots times row_tokens."""
    chunk_tokens: Positive = 128
    """Prompt tokens read in one pass; a longer prompt delays everybody's next token by one such pass at most."""
    compile: bool = False
    """Compile the decoding step at start-up: a minute or two, then a third faster where half of the slots are busy."""
    deadline_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 600.0
    """Time a request has, waiting included, before it is answered with 504; it may ask for less by `timeout`."""
    max_queue: Positive = 256
    """Rows that may wait; beyond it requests get 503 and Retry-After."""
    max_prompts: Positive = 32
    """Continuations one request may ask for (prompts times n); `baseline` may double it."""
    max_new_tokens: Positive = 1024
    """The largest `max_tokens` a request may ask for."""
    max_body_bytes: Positive = 1 << 20
    """Larger request bodies are refused with 413, whatever their headers say."""
    max_upload_bytes: Positive = 64 << 20
    """The largest probe that may be uploaded, in bytes."""
    max_uploads: Annotated[int, Field(ge=0)] = 64
    """Uploaded probes kept at a time; 0 takes none. Together they hold `max_uploads` x `max_upload_bytes` at most."""
    default_policy: str | None = None
    """The policy of requests that have no `steering`. Unset: they are answered unsteered."""
    allow_opt_out: bool = True
    """Whether requests may give another `steering` than the default policy, mode `off` included."""
    max_connections: Positive = 512
    """Connections at a time; the next are refused with 503, or cut."""
    max_requests_per_key: Positive = 128
    """Requests of one key at a time; beyond it 429."""
    header_seconds: Seconds = 10.0
    """Time for the head of a request to arrive; then 408."""
    body_seconds: Seconds = 60.0
    """Time for its body to arrive (and a second more for each 512 KiB); then 408."""
    write_seconds: Seconds = 60.0
    """Time for a caller to read what waits for it (and a second more for each 16 KiB); then the connection is cut."""
    data: Path | None = None
    """Folder of data files that evaluations may read. Unset: a spec brings its texts itself."""
    max_jobs: Positive = 1
    """Evaluations that run at a time; the others wait."""
    jobs_load_model: bool | None = None
    """Evaluations load the model once more, on the CPU, for perplexity and instructions. Unset: if it is embedded."""
    drain_seconds: Positive = 60
    """After SIGTERM, how long accepted requests may take to finish."""
    log_level: Literal["critical", "error", "warning", "info", "debug"] = "info"
    """Of the log on standard error."""
    log_format: Literal["json", "text"] | None = None
    """Of its lines. Unset: text at a terminal, else JSON."""
    log_prompts: bool = False
    """Log the prompts and completions of every request; without it no line holds any of their text."""
    otlp_endpoint: str | None = None
    """Send traces there by OTLP over HTTP, as http://collector:4318; needs the extra `otel`. Unset: to where
    OTEL_EXPORTER_OTLP_ENDPOINT says, if it is set."""

    @model_validator(mode="after")
    def _a_full_request_fits_the_queue(self) -> Settings:
        if 2 * self.max_prompts > self.max_queue:
            raise ValueError(
                f"max_queue {self.max_queue} cannot hold one request of max_prompts {self.max_prompts} with its "
                "baseline twins; raise max_queue to at least twice max_prompts"
            )
        return self

    @model_validator(mode="after")
    def _something_to_opt_out_of(self) -> Settings:
        if not self.allow_opt_out and self.default_policy is None:
            raise ValueError(
                "no-opt-out holds requests to the default policy, and there is none; give --default-policy"
            )
        return self

    def check_bind(self, *, closed: bool = False) -> None:
        """Raise InvalidRequest when the host is public, no key is demanded (`closed`) and that was not asked for."""
        if not (closed or self.allow_public or _is_loopback(self.host)):
            raise InvalidRequest(
                f"--host {self.host} can be reached from other machines and this server has no keys; make one "
                "(tiller keys add NAME, or TILLER_API_KEY), or say --allow-public (TILLER_ALLOW_PUBLIC=1) if everyone "
                "who can reach it may use it",
                param="host",
            )

    @property
    def hosts(self) -> tuple[str, ...] | None:
        """Names to answer to, besides localhost and addresses; None for any."""
        return (*self.allowed_host, self.host) if self.allowed_host or _is_loopback(self.host) else None

    def state_folder(self) -> Path:
        """Where policies, keys, jobs and uploaded probes are kept."""
        return self.state or tiller_home() / "state"

    def probe_folder(self) -> Path | None:
        """The folder to load probes from: the one given, else the shipped one of this model; None for no probes."""
        if self.probes is not None:
            return self.probes
        spec = importlib.util.find_spec("probes")  # located, not imported: serving needs no training dependency
        for home in (spec.submodule_search_locations or []) if spec else []:
            folder = Path(home) / "pretrained" / self.model
            if folder.is_dir():
                return folder
        return None


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
