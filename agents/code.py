"""smolagents' CodeAgent, each of whose code actions runs in our sandbox; its own executor is never made."""

from collections.abc import Callable
from typing import Any

from agents.budget import Budget, LimitReached
from agents.config import AgentsConfig
from agents.endpoint import UNREADABLE, Endpoint, tokens_of
from agents.extra import need
from agents.hostile import RULE, SHORT_RULE, as_data, clean
from infra.errors import R1Error
from rl.sandbox.session import Session, SessionConfig, ToolError

SHORT = (
    "Reply with Python in <code></code>. Functions: {% for tool in tools.values() %}{{ tool.name }} {% endfor %}."
    f" {SHORT_RULE}"
)
"In place of smolagents' system prompt, which has 9,000 characters."


class SandboxExecutor:
    """What smolagents hands code actions to (its PythonExecutor): a session of rl/sandbox, its names kept between them.

    Raises SandboxError, which no agent outlives, where code cannot be shut in on this machine.
    """

    def __init__(self, cfg: SessionConfig) -> None:
        self.cfg = cfg
        self.state: dict[str, Any] = {}
        "smolagents reads _print_outputs here where an action has failed."
        self.broken: R1Error | None = None
        "Why no code can be run at all. smolagents tells the model whatever an executor raises, and goes on."
        self._session: Session | None = None

    def send_tools(self, tools: dict[str, Any]) -> None:
        """Of a new run. final_answer is the session's own."""
        self.cleanup()
        named = {name: _called(tool) for name, tool in tools.items() if name != "final_answer"}
        self._session = Session(named, self.cfg)

    def send_variables(self, variables: dict[str, Any]) -> None:
        """Values that a run starts with: none of ours does."""
        if variables:
            raise R1Error("an agent's code starts without variables; put them into the question")

    def __call__(self, code_action: str) -> Any:
        """Run an action; -> smolagents' CodeOutput. An action that fails raises ToolError, which the model is told."""
        from smolagents.local_python_executor import CodeOutput

        try:
            done = self._session.run(code_action)
        except R1Error as error:
            self.broken = error
            raise
        logs = as_data(done.printed, "printed") if done.printed else ""
        self.state["_print_outputs"] = logs
        if done.error:
            raise ToolError(clean(done.error))
        if done.final:
            return CodeOutput(output=done.value, logs=logs, is_final_answer=True)
        shown = None if done.value is None else as_data(str(done.value), "value")
        return CodeOutput(output=shown, logs=logs, is_final_answer=False)

    def cleanup(self) -> None:
        """End the sandbox."""
        if self._session is not None:
            self._session.close()


def _called(tool: Any) -> Callable[..., Any]:
    """A tool of smolagents, called with what its description says and nothing else."""
    names = list(tool.inputs)

    def call(*arguments: Any, **named: Any) -> Any:
        given = dict(zip(names, arguments, strict=False)) | named
        if len(arguments) > len(names) or given.keys() != set(names):
            raise ToolError(f"it takes {', '.join(names)}")
        return tool(**given)

    return call


def answer(question: str, endpoint: Endpoint, budget: Budget, cfg: AgentsConfig, tools: dict[str, Any]) -> str:
    """The agent's answer. Raises LimitReached, R1Error where the endpoint fails, SandboxError without a sandbox.

    tools: name -> (what it does, function of one text).
    """
    smolagents = need("smolagents")
    openai = need("openai")

    executor = SandboxExecutor(cfg.session)

    class Model(smolagents.OpenAIModel):
        """smolagents' client of OpenAI's protocol, under the budget."""

        def generate(self, messages: list, stop_sequences: list[str] | None = None, **given: Any) -> Any:
            if executor.broken:
                raise executor.broken
            with budget.call(endpoint.cfg.max_tokens, endpoint.cfg.timeout_s) as call:
                given |= {"max_tokens": call.max_tokens, "timeout": call.timeout_s / (endpoint.cfg.retries + 1)}
                said = super().generate(messages, stop_sequences, **given)
                used = {"total_tokens": said.token_usage.input_tokens + said.token_usage.output_tokens}
                call.tokens = tokens_of(used, [{"content": str(m.content)} for m in messages], said.content or "")
            said.content = said.content or ""
            return said

    def made(name: str, about: str, function: Callable[[str], str]) -> Any:
        class OneText(smolagents.Tool):
            skip_forward_signature_validation = True
            inputs = {"text": {"type": "string", "description": "what is asked"}}
            output_type = "string"

            def forward(self, text: str) -> str:
                return function(text)

        OneText.name, OneText.description = name, about
        return OneText()

    model = Model(
        endpoint.model,
        api_base=endpoint.cfg.url,
        api_key=endpoint.key or "none",
        client_kwargs=endpoint.openai_client(),
        flatten_messages_as_text=True,
        retry=False,
        temperature=endpoint.cfg.temperature,
    )
    agent = smolagents.CodeAgent(
        tools=[made(name, *rest) for name, rest in tools.items()],
        model=model,
        executor=executor,
        max_steps=cfg.steps,
        prompt_templates=_short(smolagents) if cfg.short else None,
        instructions=f"{RULE} Give the answer alone to final_answer, without words around it.",
        verbosity_level=smolagents.LogLevel.OFF,
        return_full_result=True,
    )
    try:
        result = agent.run(question)
    except smolagents.AgentGenerationError as error:
        if isinstance(error.__cause__, (openai.OpenAIError, *UNREADABLE)):
            raise endpoint.told(error.__cause__) from error
        if isinstance(error.__cause__, R1Error):
            raise error.__cause__ from None
        raise
    finally:
        executor.cleanup()
        model.client.close()
    if executor.broken:
        raise executor.broken
    if result.state != "success":
        raise LimitReached(f"the limit of {cfg.steps} steps is reached; set steps higher")
    return str(result.output)


def _short(smolagents: Any) -> dict[str, Any]:
    """Prompt templates of a few words. What asks for a last answer has to be there, too."""
    last = {"pre_messages": "Answer.", "post_messages": "{{task}}"}
    return {**smolagents.agents.EMPTY_PROMPT_TEMPLATES, "system_prompt": SHORT, "final_answer": last}
