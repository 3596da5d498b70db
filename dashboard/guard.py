"""Who may look: the server listens on this machine alone, or asks for a token, or stands behind a proxy that does."""

import hmac
import ipaddress
import os

import streamlit as st

TOKEN, PROXY = "R1_DASHBOARD_TOKEN", "R1_DASHBOARD_PROXY"
LEAST = 16
"Characters of a token."


def problem(address: str | None) -> str | None:
    """Why the dashboard may not be served on this address; None where it may. No address: all of the machine's."""
    token = os.environ.get(TOKEN, "")
    if token and len(token) < LEAST:
        return f"{TOKEN} has {len(token)} characters, which can be guessed; give it {LEAST} or more"
    if is_local(address) or token or os.environ.get(PROXY):
        return None
    return (
        f"address={address or 'all'}: others on the network could read every run; listen on 127.0.0.1, or set {TOKEN} "
        f"to a secret that readers give, or {PROXY} to the name of the proxy in front that lets only readers in"
    )


def is_local(address: str | None) -> bool:
    """Whether only this machine reaches the address."""
    if address == "localhost":
        return True
    try:
        return ipaddress.ip_address(address or "0.0.0.0").is_loopback
    except ValueError:
        return False


def let_in() -> None:
    """Go on only for a reader who may look: the token is a field, or ?token=... once, and then leaves the address."""
    if why := problem(st.get_option("server.address")):
        st.error(why)
        st.stop()
    token = os.environ.get(TOKEN, "")
    if not token or st.session_state.get("let_in"):
        return
    given = st.query_params.get("token") or ""
    if "token" in st.query_params:
        del st.query_params["token"]  # links that are passed on do not carry it
    if not given:
        with st.form("token_form", width=420):
            given = st.text_input("Token of this dashboard", type="password")
            st.form_submit_button("Open")
    if hmac.compare_digest(given.encode(), token.encode()):
        st.session_state["let_in"] = True
        st.rerun()
    if given:
        st.error("That is not the token.")
    st.stop()
