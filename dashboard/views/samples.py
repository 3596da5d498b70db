"""Samples: what the model wrote at any step: a question's group side by side, down the steps, or two steps compared."""

import pandas as pd
import streamlit as st

from dashboard import answer_cards as told
from dashboard import charts, choice, controls, step_diff, store, token_strip
from dashboard.answer_cards import answer_card, is_flat, parts_of
from dashboard.answer_filter import RESULTS, BadPattern, Filter, result
from dashboard.points import Figure
from dashboard.shown import card, notice, plain, show_block, show_cards, show_text, text_block

VIEWS = ("one step", "one question", "two steps")
FOLLOWED = 24  # steps of one question that are shown at a time (a text below would be shown on the page)


def choose_step(files: dict, key: str = "step", label: str = "Step", first: bool = False) -> int:
    """A step on a slider; the last one at first, or the first one."""
    steps = list(files)
    if st.session_state.get(key) not in steps:
        st.session_state.pop(key, None)
    if len(steps) == 1:
        st.caption(f"Step {steps[0]}, the only one with samples so far.")
        return steps[0]
    start = steps[0] if first else steps[-1]
    return st.select_slider(label, steps, value=start, key=key, bind="query-params")


def choose_filter() -> Filter:
    """The filters, all part of the address."""
    bound = {"bind": "query-params"}
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        wanted = st.segmented_control("Answers", RESULTS, default="all", required=True, key="result", **bound)
        words = st.text_input("Containing", key="contains", placeholder="text in the answer", width=260, **bound)
        regex = st.toggle("Regular expression", key="regex", **bound)
        checks = st.toggle("With a self-check", key="checks", **bound)
        mixed = st.toggle("Mixed languages", key="mixed", **bound)
    return Filter(result=wanted, self_check=checks, mixed=mixed, contains=words, regex=regex)


def read(step: int) -> pd.DataFrame:
    """The answers of a step; what cannot be read is said, and the page ends."""
    try:
        found = store.samples(files[step])
    except store.Unreadable as error:
        notice([error])
        st.stop()
    if found.empty:
        st.info("The file of this step holds no answers.")
        st.stop()
    return found.assign(question_id=found["question_id"].fillna("-"))


def choose_question(questions: list[str]) -> str:
    """One of them."""
    if st.session_state.get("question") not in questions:
        st.session_state.pop("question", None)
    return st.selectbox("Question", questions, key="question", bind="query-params")


def group_table(answers: pd.DataFrame) -> pd.DataFrame:
    """A line a group: how it did, and in words whether it teaches anything."""
    rows = []
    for question, group in answers.groupby("question_id", sort=False):
        right = sum(result(answer) == "right" for answer in group.to_dict("records"))
        rows.append(
            {
                "question": question,
                "right": f"{right} of {len(group)}",
                "mean reward": told.number(group["reward"].mean(), ".3f"),
                "mean tokens": told.number(group["response_tokens"].mean(), ".0f"),
                "variance of rewards": "zero: teaches nothing" if is_flat(group) else "some",
            }
        )
    return pd.DataFrame(rows)


def red(row: pd.Series) -> list[str]:
    """Zero-variance lines in red, beside their words."""
    return ["color: #C62828" if row["variance of rewards"].startswith("zero") else ""] * len(row)


def show_asked(asked) -> None:
    """The question itself."""
    st.markdown(
        f"**Asked** · task {plain(asked['task'] or '-')} · a right answer, for you: {plain(asked['answer_key'] or '-')}"
    )
    show_text(asked["prompt"] or "-")


def one_step() -> None:
    """A question's whole group at a step."""
    step = choose_step(files)
    wanted = choose_filter()
    answers = read(step)
    try:
        fits = wanted.fits(answers)
    except BadPattern as error:
        st.warning(plain(error), icon=":material/warning:")
        return
    answers = answers.assign(fits=fits)
    fitting = answers[answers["fits"]]
    questions = list(dict.fromkeys(fitting["question_id"]))
    flat = sum(is_flat(group) for _, group in answers.groupby("question_id"))
    asked_in_all = answers["question_id"].nunique()
    st.caption(
        f"{len(fitting)} of {len(answers)} answers fit, to {len(questions)} of {asked_in_all} questions. "
        f"{flat} of {asked_in_all} groups have zero variance."
    )
    if not questions:
        st.info("No answer of this step fits. Take a filter away, or look at another step.")
        return
    with st.expander(f"Groups of this step ({asked_in_all}, {flat} with zero variance)"):
        st.dataframe(group_table(answers).style.apply(red, axis=1), hide_index=True)
    question = choose_question(questions)
    group = answers[answers["question_id"] == question]
    show_asked(group.iloc[0])
    st.markdown(f"**Answered** · {group['fits'].sum()} of {len(group)} fit the filters; those that do not are pale")
    order = group.sort_values(["fits", "group"], ascending=[False, True], kind="stable").to_dict("records")
    parts = parts_of(group)
    cards = [
        answer_card(a, parts, wanted, dimmed=not a["fits"], link=told.link(run.key, kind, step, question, a))
        for a in order
    ]
    show_cards(cards, flat=told.FLAT if is_flat(group) else "")
    token_by_token(step, group)


def token_by_token(step: int, group: pd.DataFrame) -> None:
    """One answer of the group as a strip of coloured tokens."""
    numbers = {told.number(answer["group"], ".0f"): row for row, answer in group.iterrows()}
    if st.session_state.get("answer") not in numbers:
        st.session_state.pop("answer", None)
    st.markdown("**Token by token** · rest on a token to read its value")
    left, right = st.columns([1, 2], vertical_alignment="bottom")
    which = left.selectbox("Answer #", list(numbers), key="answer", bind="query-params")
    kinds = list(token_strip.KINDS)
    colour = right.segmented_control(
        "Coloured by", kinds, default=kinds[0], required=True, key="colour", bind="query-params"
    )
    try:
        found = token_strip.of_row(store.samples(files[step], token_strip.COLUMNS).loc[numbers[which]])
    except store.Unreadable as error:
        notice([error])
        return
    if found is None:
        st.info("The tokens of this answer were not recorded.")
        return
    values = found.values(colour)
    about = token_strip.KINDS[colour]
    said = token_strip.summary(values) if values else "not recorded for this answer"
    st.caption(f"{about.about}; full colour at {about.full:g}. {said[0].upper()}{said[1:]}.")
    show_block(token_strip.strip(found.tokens, values, colour))


def one_question() -> None:
    """One question down the steps: how its answers changed."""
    looked = told.spread(list(files), 400)
    known = dict.fromkeys(question for step in looked for question in told.question_ids(files[step]))
    often = sorted(known, key=lambda q: -sum(q in told.question_ids(files[step]) for step in looked[:40]))
    if not often:
        st.info("No file of this run can be read.")
        return
    question = choose_question(often)
    steps = told.asked_at(files, question)
    shown = told.spread(steps, FOLLOWED)
    st.caption(
        f"Asked at {len(steps)} of {len(files)} steps"
        + (f"; {len(shown)} of them are shown, evenly spread." if len(shown) < len(steps) else ".")
        + (" Held-out questions are asked again and again, training questions seldom." if kind == "training" else "")
    )
    groups = {}
    for step in shown:
        answers = read(step)
        groups[step] = answers[answers["question_id"] == question]
    show_asked(groups[shown[0]].iloc[0])
    rows = [
        {
            "step": float(step),
            "right": float((group["reward_accuracy"] == 1.0).mean()) if "reward_accuracy" in group else None,
            "response": group["response_tokens"].mean(),
            "thinking": group["thinking_tokens"].mean(),
            "checks": group["reflects"].map(lambda value: value is True).mean(),
        }
        for step, group in groups.items()
    ]
    frame = {run.key: pd.DataFrame(rows)}
    if len(shown) > 1:
        figures = (
            Figure("Right answers to this question", "share", (("right", "right"), ("checks", "with a self-check"))),
            Figure("Length of the answers", "tokens", (("response", "response"), ("thinking", "thinking"))),
        )
        controls.grid(charts.curves(frame, figure) for figure in figures)
    places = sorted({told.number(value, ".0f") for group in groups.values() for value in group["group"]}, key=int_or_0)
    place = st.selectbox("Answer # of each group", places, key="place", bind="query-params")
    cards = []
    for step, group in groups.items():
        for answer in group.to_dict("records"):
            if told.number(answer["group"], ".0f") == place:
                link = told.link(run.key, kind, step, question, answer)
                cards.append(answer_card(answer, parts_of(group), Filter(), head=[f"step {step}"], link=link))
    show_cards(cards)


def int_or_0(text: str) -> int:
    """For the order of answers."""
    return int(text) if text.isdigit() else 0


def two_steps() -> None:
    """The same question at two steps, answer against answer."""
    if len(files) < 2:
        st.info("There is one step so far; two are compared.")
        return
    left, right = st.columns(2)
    with left:
        before = choose_step(files, "from", "From step", first=True)
    with right:
        after = choose_step(files, "step", "To step")
    old, new = read(before), read(after)
    both = [question for question in dict.fromkeys(new["question_id"]) if question in set(old["question_id"])]
    if not both:
        st.info(
            "No question was asked at both steps. Held-out questions are the same at every evaluation: choose those "
            "above, where the run has them."
        )
        return
    question = choose_question(both)
    old, new = old[old["question_id"] == question], new[new["question_id"] == question]
    show_asked(new.iloc[0])
    st.markdown("**From the one to the other** · lost words are struck out, new ones underlined")
    cards = []
    for answer in new.to_dict("records"):
        partner = old[old["group"] == answer["group"]]
        if partner.empty:
            continue
        was = partner.iloc[0]
        same = step_diff.similarity(was["text"] or "", answer["text"] or "")
        head = [
            f"#{told.number(answer['group'], '.0f')}: {result(was)} → {result(answer)}",
            f"reward {told.number(was['reward'], '.3g')} → {told.number(answer['reward'], '.3g')}",
            f"tokens {told.number(was['response_tokens'], '.0f')} → {told.number(answer['response_tokens'], '.0f')}",
            f"{same:.0%} of the words stayed",
        ]
        body = text_block(step_diff.difference(was["text"] or "", answer["text"] or ""))
        link = told.link(run.key, kind, after, question, answer)
        cards.append(card(head, body, result(answer), link=link))
    show_cards(cards)


def watch() -> None:
    """Draws nothing; a live run's new step gets a place on the slider."""
    if {kind: store.sample_files(run, kind) for kind in store.KINDS} != seen:
        st.rerun()


st.title("Samples")
runs = {run.key: run for run in choice.picked_or_stop()}
top = st.container(horizontal=True, vertical_alignment="bottom", gap="medium")
run = runs[top.selectbox("Run", list(runs), width=320) if len(runs) > 1 else next(iter(runs))]
seen = {kind: store.sample_files(run, kind) for kind in store.KINDS}
choice.live(watch)
available = [kind for kind in store.KINDS if seen[kind]]
if not available:
    st.info(
        "This run has no samples here: pre-training writes none, R1-Zero writes them as it goes, and a run that is "
        f"known from MLflow only keeps them on its own machine. {choice.MAKE_DATA}"
    )
    st.stop()
kind = available[0]
if len(available) > 1:
    kind = top.segmented_control("Questions", available, default=kind, required=True, key="of", bind="query-params")
files = seen[kind]
view = top.segmented_control("View", VIEWS, default=VIEWS[0], required=True, key="view", bind="query-params")
{"one step": one_step, "one question": one_question, "two steps": two_steps}[view]()
