"""The dashboard: python -m dashboard. Reads the run store (R1_RUNS) and MLflow (R1_MLFLOW_URI)."""

import streamlit as st

from dashboard.choice import choose
from dashboard.guard import let_in

# Without a page_icon of its own the browser would fetch the icon of the open page from another machine.
st.set_page_config(page_title="r1lab", page_icon="📈", layout="wide")
let_in()
page = st.navigation(
    [
        st.Page("views/runs.py", title="Runs", icon=":material/table_rows:", default=True),
        st.Page("views/curves.py", title="Curves", icon=":material/show_chart:"),
        st.Page("views/thinking.py", title="Thinking", icon=":material/psychology:"),
        st.Page("views/samples.py", title="Samples", icon=":material/article:"),
        st.Page("views/aha.py", title="Aha", icon=":material/lightbulb:"),
        st.Page("views/model.py", title="Model", icon=":material/account_tree:"),
        st.Page("views/claims.py", title="Claims", icon=":material/fact_check:"),
        st.Page("views/lineage.py", title="Lineage", icon=":material/family_history:"),
        st.Page("views/plan.py", title="Plan", icon=":material/calculate:"),
        st.Page("views/review.py", title="Review", icon=":material/rate_review:"),
        st.Page("views/chat.py", title="Chat", icon=":material/chat:"),
    ]
)
choose()
page.run()
