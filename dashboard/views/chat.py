"""Chat: talk to a served model and watch it think. What the model says is shown as plain text only."""

from typing import Any

import streamlit as st

from dashboard import endpoint
from dashboard.endpoint import Unreachable
from dashboard.shown import plain

DEFAULT_URL = "http://127.0.0.1:8000/v1"
START = "Start one in a terminal: `r1 serve checkpoint=experiments/base`, or with a run of yours."


def server() -> tuple[str, str, str]:
    """Address, key and model; without a server the page says how to start one and ends."""
    url = st.sidebar.text_input("Server", DEFAULT_URL, key="chat_url")
    key = st.sidebar.text_input("Key", type="password", key="chat_key", help="Only where the server asks for one.")
    try:
        names = endpoint.models(url, key)
    except Unreachable as problem:
        st.info(f"No server answers at {plain(url)}: {plain(problem)}. {START}")
        st.stop()
    if not names:
        st.info(f"The server at {plain(url)} has no model. {START}")
        st.stop()
    return url, key, st.sidebar.selectbox("Model", names, key="chat_model")


def settings() -> dict[str, Any]:
    """How answers are drawn."""
    temperature = st.sidebar.slider("Temperature", 0.0, 2.0, 0.6, 0.1, key="chat_temperature")
    longest = st.sidebar.number_input("Longest answer, tokens", 1, 131072, 256, key="chat_longest")
    budget = st.sidebar.number_input(
        "Longest thinking, tokens", 0, 131072, None, key="chat_budget", placeholder="no limit"
    )
    chosen = {"temperature": temperature, "max_tokens": int(longest)}
    return chosen | ({} if budget is None else {"max_thinking_tokens": int(budget)})


def show(turn: dict[str, str]) -> None:
    """One turn of the conversation."""
    with st.chat_message(turn["role"]):
        if turn.get("thinking"):
            with st.expander("Thinking"):
                st.text(turn["thinking"])
        st.text(turn["content"])
        if turn.get("thinking") and not turn["content"] and not turn.get("problem"):
            st.caption("No answer: its thinking had not ended when its tokens did.")
        if turn.get("problem"):
            st.warning(plain(turn["problem"]), icon=":material/warning:")


def answer(url: str, key: str, body: dict[str, Any]) -> dict[str, str]:
    """Ask, show the answer as it comes, and give the turn."""
    turn = {"role": "assistant", "thinking": "", "content": ""}
    with st.chat_message("assistant"):
        with st.expander("Thinking"):
            thinking = st.empty()
        content = st.empty()
        try:
            for more_thinking, more in endpoint.stream(url, key, body):
                turn["thinking"] += more_thinking
                turn["content"] += more
                thinking.text(turn["thinking"])
                content.text(turn["content"] or "thinking ...")
        except Unreachable as problem:
            turn["problem"] = str(problem)
    return turn


st.title("Chat")
url, key, model = server()
chosen = settings()
turns: list[dict[str, str]] = st.session_state.setdefault("chat_turns", [])
if st.sidebar.button("New conversation", disabled=not turns):
    turns.clear()
alone = st.sidebar.toggle(
    "Each question alone", value=True, key="chat_alone", help="The tiny models know no conversations, only questions."
)
for turn in turns:
    show(turn)
question = st.chat_input("Make 19 from 3, 5, 8.")
if question:
    turns.append({"role": "user", "content": question})
    show(turns[-1])
    asked = turns[-1:] if alone else turns
    messages = [{"role": turn["role"], "content": turn["content"]} for turn in asked]
    turns.append(answer(url, key, {"model": model, "messages": messages} | chosen))
    st.rerun()
if not turns:
    st.caption("Ask something. The thinking is folded away above each answer.")
