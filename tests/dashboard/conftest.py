"""A run store of its own for each test."""

from pathlib import Path

import pytest
import streamlit as st


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty run store that the dashboard reads."""
    monkeypatch.setenv("R1_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("R1_MLFLOW_URI", f"sqlite:///{tmp_path}/mlflow.db")
    st.cache_data.clear()
    st.cache_resource.clear()
    return tmp_path / "runs"
