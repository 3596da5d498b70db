"""Curves: everything a run logged against steps, tokens or time, raw values pale behind their moving mean."""

import streamlit as st

from dashboard import choice, controls, figures, reference
from dashboard.points import Figure
from dashboard.shown import notice, plain

AT_A_TIME = 24  # charts; the rest is found by name


def chosen(parts: dict[str, list[Figure]]) -> list[Figure]:
    """The figures of the part, or those that were looked for."""
    left, right = st.columns([3, 1], vertical_alignment="bottom")
    names = list(parts)
    if st.session_state.get("part") not in names:
        st.session_state.pop("part", None)
    part = left.segmented_control("Part", names, default=names[0], required=True, key="part", bind="query-params")
    words = right.text_input("Find a metric", key="metric", bind="query-params", placeholder="entropy")
    if not words:
        return parts[part]
    found = figures.found(parts, words)
    if not found:
        st.info(f"No metric of the chosen runs has “{plain(words)}” in its name.")
    return found


def page() -> None:
    """The charts of the chosen part; those without data take no place."""
    names = [metric for figure in wanted for metric in figure.metrics]
    frames = choice.frames([*names, *(f"{name}_{end}" for name in names for end in ("low", "high"))])
    axis = view.look.x
    without = [key for key, frame in frames.items() if len(frame) and frame[view.look.column].notna().sum() == 0]
    if without and axis != "step":
        st.info(f"{len(without)} of the chosen runs logged no {axis}; only their steps can be drawn.")
    controls.grid(
        view.draw(frames, figure, measured=figure.title == figures.PASS_AT_1) for figure in wanted[:AT_A_TIME]
    )
    if len(wanted) > AT_A_TIME:
        st.caption(f"{len(wanted) - AT_A_TIME} more metrics: find them by name above.")
    if set(choice.metric_names()) - known:
        st.rerun()  # a metric came that the parts above do not know


st.title("Learning curves")
runs = choice.picked_or_stop()
known = set(choice.metric_names())
notice(f"{name} in experiments/results/reference holds no reference curves." for name in reference.broken())
if not known:
    choice.live(choice.wait_for_metrics)
    st.stop()
view = controls.view()
wanted = chosen(figures.by_part(sorted(known)))
choice.live(page)
