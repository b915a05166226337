"""Errors arrive as the exceptions that the openai package makes of OpenAI's error objects."""

import openai
import pytest

from rbee import MODEL

HELLO = [{"role": "user", "content": "Hello"}]


@pytest.mark.parametrize(
    "ask",
    [
        lambda client, model: client.models.retrieve(model),
        lambda client, model: client.chat.completions.create(model=model, messages=HELLO),
        lambda client, model: client.chat.completions.create(model=model, messages=HELLO, stream=True),
        lambda client, model: client.completions.create(model=model, prompt="Hello"),
    ],
    ids=["retrieve", "chat", "chat-stream", "completion"],
)
def test_an_unknown_model_is_not_found_and_the_nearest_alias_is_named(client, ask):
    with pytest.raises(openai.NotFoundError) as raised:
        ask(client, "smolm2-135m")
    assert raised.value.code == "model_not_found"
    assert raised.value.type == "invalid_request_error"
    assert "smolm2-135m" in raised.value.message
    assert MODEL in str(raised.value.body)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", -1),
        ("max_tokens", 0),
        ("max_tokens", "many"),
        ("max_tokens", 1.5),
        ("temperature", "warm"),
        ("temperature", -0.5),
        ("top_p", 7),
        ("stream", "perhaps"),
        ("seed", "x"),
        ("stop", {"a": 1}),
        ("messages", "hello"),
        ("messages", []),
        ("messages", [{"role": "stranger", "content": "Hello"}]),
        ("messages", [{"role": "user"}]),
        ("model", 5),
    ],
)
def test_a_wrong_value_is_a_bad_request_that_names_the_field(client, field, value):
    question = {"model": MODEL, "messages": HELLO, "max_tokens": 4, field: value}
    with pytest.raises(openai.BadRequestError) as raised:
        client.chat.completions.create(**question)
    error = raised.value
    assert error.type == "invalid_request_error"
    assert error.code
    assert field in f"{error.param} {error.message}"


def test_a_prompt_beyond_the_context_is_refused_with_both_lengths(client):
    with pytest.raises(openai.BadRequestError) as raised:
        client.completions.create(model=MODEL, prompt="sea " * 20_000, max_tokens=1)
    assert raised.value.code == "context_length_exceeded"
    numbers = [word for word in raised.value.message.replace(",", " ").split() if word.strip(".();").isdigit()]
    assert len(numbers) >= 2, raised.value.message


def test_a_body_that_is_no_json_is_a_bad_request(rbee, client):
    with pytest.raises(openai.BadRequestError) as raised:
        client.post("/chat/completions", cast_to=object, content=b'{"model": "x", ', options={
            "headers": {"Content-Type": "application/json"},
        })
    assert raised.value.type == "invalid_request_error"


def test_a_body_beyond_the_limit_is_refused_with_413(client):
    messages = [{"role": "user", "content": "x" * (50 << 20)}]
    with pytest.raises(openai.APIStatusError) as raised:
        client.chat.completions.create(model=MODEL, messages=messages)
    assert raised.value.status_code == 413
    assert raised.value.type == "invalid_request_error"


def test_an_unknown_path_is_an_error_object(client):
    with pytest.raises(openai.NotFoundError) as raised:
        client.get("/no/such/path", cast_to=object)
    assert raised.value.type == "invalid_request_error"


def test_an_error_leaves_the_worker_as_it_was(client, rbee):
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=-1)
    answer = client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=2, temperature=0)
    assert answer.usage.completion_tokens == 2
