"""vLLM's own OpenAI server behind ours, started in its environment (`make vllm-env`) on a machine with a GPU."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from infra.errors import ConfigError
from infra.serve.metrics import Metrics
from infra.serve.prompts import Prompts, template_for
from infra.serve.proxy import ProxyBackend

if TYPE_CHECKING:
    from experiments.config import Config


def start(cfg: "Config", metrics: Metrics, stack: contextlib.ExitStack) -> tuple[ProxyBackend, str]:
    """-> a front of the server, and the model's name. The server ends with the stack, or with this process.

    Raises ConfigError where there is no GPU, no environment of vLLM's, or no Hugging Face folder; R1Error where the
    server does not start.
    """
    import torch

    from experiments.chat import model_folder
    from infra.serve.command import name_of
    from modeling import hf
    from modeling.hf_link import lay_out
    from modeling.tokenizer import Tokenizer
    from rl.rollout.vllm_server import Server, kernels_for

    given = model_folder(cfg.serve.checkpoint)
    folder = next((path for path in (given, given / "model") if (path / "config.json").exists()), None)
    if folder is None:
        remedy = f"write one: r1 export checkpoint={given} out=models/served"
        raise ConfigError("serve.checkpoint", given, "vLLM reads Hugging Face folders", remedy)
    vllm = cfg.rl.rollout.vllm
    if not torch.cuda.is_available():
        raise ConfigError("serve.engine", "vllm", "there is no GPU that torch can use", "set serve.engine=local")
    if not Path(vllm.python).exists():
        raise ConfigError("serve.engine", "vllm", f"there is no {vllm.python}", "run make vllm-env")
    tokenizer, name = Tokenizer.load(folder), cfg.serve.name or name_of(given)
    laid_out = lay_out(folder, Path(cfg.run.dir).absolute() / "vllm", tokenizer)
    arguments = ["--served-model-name", name, "--tensor-parallel-size", str(vllm.tensor)]
    template = template_for(cfg.task.template, tokenizer)
    if not tokenizer.has_chat:
        file = laid_out / "chat_template.jinja"
        file.write_text(template)
        arguments += ["--chat-template", str(file)]
    server = Server(
        laid_out,
        laid_out.with_name("vllm.log"),
        python=Path(vllm.python),
        arguments=arguments,
        devices=cfg.rl.rollout.devices,
        environment=kernels_for(hf.config_from(folder)),
    )
    stack.callback(server.stop)
    server.start(vllm.start_timeout_s)
    opened = Prompts.opens_thinking(Prompts(template, tokenizer).render([{"role": "user", "content": "?"}]))
    # The tags are special tokens of the tiny models, and vLLM leaves such out.
    extra = {"skip_special_tokens": False} if tokenizer.is_own else {}
    return ProxyBackend(server.url, metrics, extra=extra, opened=opened), name
