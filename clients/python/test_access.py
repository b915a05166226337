"""A token made by the keeper is what clients need from then on, and no other."""

import json

import openai
import pytest


@pytest.fixture(scope="module")
def guarded(start):
    """An rbee with one token: (rbee, token)."""
    rbee = start("guarded")
    return rbee, rbee.keeper("token", "create", "--name", "laptop").strip()


def test_without_the_token_every_route_is_refused(guarded):
    rbee, _ = guarded
    for key in ("unused", "rbee_" + "A" * 43):
        with rbee.client(key) as client, pytest.raises(openai.AuthenticationError) as raised:
            client.models.list()
        assert raised.value.status_code == 401
        assert raised.value.type == "authentication_error"
        assert key not in raised.value.message


def test_with_the_token_a_request_is_served(guarded):
    rbee, token = guarded
    with rbee.client(token) as client:
        assert client.models.list().object == "list"


def test_the_keeper_of_the_same_user_needs_no_token(guarded):
    rbee, token = guarded
    listed = rbee.keeper("token", "list", "--json")
    assert [entry["name"] for entry in json.loads(listed)] == ["laptop"]
    assert token not in listed
    assert json.loads(rbee.keeper("status", "--json"))["version"]


def test_a_revoked_token_is_refused(guarded):
    rbee, token = guarded
    second = rbee.keeper("token", "create", "--name", "lost-phone").strip()
    with rbee.client(second) as client:
        client.models.list()
        rbee.keeper("token", "revoke", "lost-phone")
        with pytest.raises(openai.AuthenticationError):
            client.models.list()
    with rbee.client(token) as client:
        client.models.list()


def test_no_file_holds_the_token(guarded):
    rbee, token = guarded
    files = [path for path in rbee.home.rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if token.encode() in path.read_bytes()]
