"""`r1 <command> key=value ...`: settings are judged first, then ranks start, then torch is imported."""

import dataclasses
import difflib
import errno
import importlib
import json
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.commands import COMMANDS, RANK_COMMAND, Command
from infra.errors import R1Error

if TYPE_CHECKING:
    from experiments.config import Config


def main(argv: list[str] | None = None) -> int:
    """The entry point of `r1`; -> exit status: 0, 2 for what the user can mend, 1 for a rank that died, 130 for Ctrl-C.

    Told to stop by a signal outside the training loop: 0 where the same command goes on, else 128 + the signal.
    Anything but R1Error is a bug of ours, and keeps its traceback.
    """
    argv = sys.argv[1:] if argv is None else argv
    quiet()
    try:
        return _run(argv)
    except R1Error as error:
        rank = os.environ.get("RANK", "0")
        print(error if rank == "0" else f"rank {rank}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    except BrokenPipeError:  # `r1 --help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        where = error.filename or "the run folder"
        print(f"{where}: {error.strerror}; mend that and start again: the run goes on where it was", file=sys.stderr)
        return 2


def quiet() -> None:
    """The terminal is the user's: warnings of libraries are for developers, who set PYTHONWARNINGS to see them."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
        os.environ.setdefault("PYTHONWARNINGS", "ignore")  # for processes started from here
    for name, value in {
        "TORCH_CPP_LOG_LEVEL": "ERROR",
        "GLOG_minloglevel": "2",
        "TOKENIZERS_PARALLELISM": "false",
        "TRANSFORMERS_VERBOSITY": "error",
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    }.items():
        os.environ.setdefault(name, value)


def _run(argv: list[str]) -> int:
    if not argv or argv[0] in ("--help", "-h", "help"):
        print(_overview())
        return 0
    name, given = argv[0], argv[1:]
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        meant = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(COMMANDS)}"
        raise R1Error(f"r1 {name}: there is no such command; {meant}")
    command = COMMANDS[name]
    if "--help" in given or "-h" in given:
        print(_help(name, command, [text for text in given if text not in ("--help", "-h", *command.verbs)]))
        return 0
    if command.verbs:
        verb = given.pop(0) if given and given[0] in command.verbs else ""
        return _function(command)(_judge(name, given, launched=False), verb, given) or 0

    from infra import ranks, stopping

    launched, child = ranks.launched(), ranks.die_with_parent()
    if launched and command.trains:
        stopping.remember()
    cfg = _judge(name, given, launched)
    if not (launched or child):  # a child that is told to stop alone has to be missed, or rank 0 would wait for it
        stopping.raise_on_signals()
    try:
        return _work(cfg, command, argv, launched)
    except stopping.Stopped as stopped:
        if command.trains:
            stopping.leave_word()
        print(f"r1 {name}: stopped by {stopped}; {_what_is_kept(command, cfg)}", file=sys.stderr)
        return 0 if command.trains else 128 + stopped.number


def _what_is_kept(command: Command, cfg: "Config") -> str:
    if command.trains:
        return f"finished parts and checkpoints are kept in {cfg.run.dir}; the same command goes on from there"
    if command.writes:
        return f"what was finished is in {cfg.run.dir}; the same command goes on from it where it can"
    return "nothing was written; the same command starts anew"


def _work(cfg: "Config", command: Command, argv: list[str], launched: bool) -> int:
    """Run a judged command on its ranks; argv is what starts another rank of it."""
    from infra import ranks

    number = ranks.count(cfg) if command.ranks and not launched else 1
    if command.ranks:
        ranks.check_layout(cfg, int(os.environ["WORLD_SIZE"]) if launched else number)
    with ExitStack() as stack:
        if os.environ.get("RANK", "0") != "0":
            sys.stdout = stack.enter_context(open(os.devnull, "w"))
        elif command.writes:
            _take_folder(cfg, command, stack)
        siblings = stack.enter_context(ranks.Siblings(number, [*RANK_COMMAND, *argv]))
        try:
            return _function(command)(*((cfg, argv[1:]) if command.graph else (cfg,))) or 0
        except Exception as error:
            failure = siblings.failure(wait_s=1.0)
            if failure is None or isinstance(error, R1Error):
                raise
            if not _lost_peer(error):
                traceback.print_exception(error)
            print(failure[1], file=sys.stderr)
            raise SystemExit(failure[0]) from None


def _judge(name: str, given: list[str], launched: bool) -> "Config":
    """The settings; where a launcher started several ranks, rank 0 alone complains about them."""
    from experiments.config import compose

    try:
        cfg = compose(name, given)
        if COMMANDS[name].trains:
            _check_fp8(cfg)
        return cfg
    except R1Error:
        if launched and os.environ["RANK"] != "0":
            raise SystemExit(2) from None
        raise


def _check_fp8(cfg: "Config") -> None:
    """Raise ConfigError where FP8 is asked for and this machine has nothing to carry it; imports torch only then."""
    from modeling.config import Fp8

    if cfg.model.fp8 is not Fp8.none:
        from modeling.fp8 import carrier

        carrier(cfg.model)


def _take_folder(cfg: "Config", command: Command, stack: ExitStack) -> None:
    """Lock run.dir until the stack closes; where the command trains, its config.yaml is written."""
    from experiments.kept_config import save_config
    from infra.lock import RunLock

    folder = Path(cfg.run.dir)
    try:
        stack.enter_context(RunLock(folder))
        if command.trains:
            save_config(cfg, folder, refuse=not command.graph)
    except OSError as error:
        raise R1Error(f"run.dir={folder}: {error.strerror}; choose another folder") from None


def _lost_peer(error: Exception) -> bool:
    """Whether the error says no more than that another rank is gone."""
    text = f"{type(error).__name__} {error}".lower()
    return any(word in text for word in ("gloo", "nccl", "connection", "distbackend", "diststore"))


def _function(command: Command) -> Callable[..., Any]:
    module, name = command.function.split(":")
    return getattr(importlib.import_module(module), name)


def _overview() -> str:
    width = max(map(len, COMMANDS)) + 2
    rows = [f"  {name.ljust(width)}{command.about}" for name, command in COMMANDS.items()]
    more = "r1 <command> --help lists a command's settings, with their values."
    return "\n".join(["r1 <command> key=value ...", "", *rows, "", more])


def _help(name: str, command: Command, given: list[str]) -> str:
    verbs = f" [{'|'.join(command.verbs)}]" if command.verbs else ""
    title = f"r1 {name}{verbs} key=value ...: {command.about}"
    from experiments.config import Config, compose, group_options
    from experiments.reads import SHORT
    from infra import help as pages

    cfg = compose(name, given, ready=False)
    said = pages.sentences(Config) | {
        "stage": "Settings of a stage, as they were seen to work.",
        "experiment": "A chain of stages with their settings, for r1 launch.",
    }
    whole = command.trains or bool(command.verbs)
    groups = [
        (group, "|".join(options), said[group])
        for group, options in group_options().items()
        if options and (group in command.sections or (group in ("stage", "experiment") and whole))
    ]
    sections = [(said[key], key, getattr(cfg, key)) for key in command.sections if key != "scale"]
    return pages.page(title, groups, sections, bare=SHORT.get(name))


def doctor(cfg: "Config", verb: str, given: list[str]) -> int:
    """`r1 doctor`; -> 1 where a program got out of the sandbox, or the run of `r1 doctor zero` would be in vain."""
    from infra import hardware

    if verb:
        return _doctor_of(verb, given)
    if not cfg.doctor.sandbox:
        checks = hardware.report()
        print(json.dumps(hardware.as_dict(checks), indent=2) if cfg.doctor.json else hardware.text(checks))
        return 0
    from rl.sandbox import escapes

    def seen(outcome: escapes.Outcome) -> None:
        if not cfg.doctor.json:
            print(outcome, flush=True)

    outcomes = escapes.run_all(seen)
    summary = escapes.summary(outcomes)
    print(
        json.dumps(summary, indent=2)
        if cfg.doctor.json
        else f"{summary['attempts']} tried, {summary['escaped']} got out"
    )
    return int(summary["escaped"] > 0)


def _doctor_of(name: str, given: list[str]) -> int:
    """Look at a run before it is started, on its own ranks."""
    from experiments.config import GROUPS, Config
    from experiments.overrides import full
    from infra import ranks

    launched, _ = ranks.launched(), ranks.die_with_parent()
    cfg = _judge(name, full(given, "doctor", Config, GROUPS), launched)
    probe = dataclasses.replace(COMMANDS[name], function="experiments.doctor:run", writes=False)
    return _work(cfg, probe, ["doctor", name, *given], launched)


def plan(cfg: "Config") -> int:
    """`r1 plan`."""
    from infra.planner import report, search
    from infra.planner.config import PlanConfig
    from infra.planner.plan import plan as work_out

    if cfg.plan.published:
        print(report.compare_table(report.compare()))
        return 0
    asked = PlanConfig(model=cfg.model, parallel=cfg.parallel, cluster=cfg.cluster, settings=cfg.plan)
    found = search.search(asked) if cfg.plan.search else [work_out(asked)]
    chart = report.draw(found[0], Path(cfg.plan.chart)) if cfg.plan.chart else None
    if cfg.plan.json:
        print(json.dumps(found[0].to_dict(), indent=2))
        return 0
    print(report.table(found[0]))
    if cfg.plan.search:
        print(f"\nThe fastest of all legal layouts that fit:\n\n{report.runners_up(found)}")
    if chart:
        print(f"\nchart                 {chart}")
    return 0


def sync(cfg: "Config") -> int:
    """`r1 sync`."""
    from infra.tracking import sync as send

    print(send(Path(cfg.run.dir), cfg.tracking.uri or None))
    return 0


if __name__ == "__main__":
    sys.exit(main())
