"""Log probabilities, several answers, and tokens that are wanted or banned."""

import math

import openai
import pytest

from rbee import MODEL

SEA = [{"role": "user", "content": "Write one sentence about the sea."}]
QUESTION = {"model": MODEL, "messages": SEA, "max_tokens": 12, "temperature": 0}


def test_log_probabilities_are_told_for_each_token_of_the_text(client):
    choice = client.chat.completions.create(**QUESTION, logprobs=True, top_logprobs=3).choices[0]

    entries = choice.logprobs.content
    assert b"".join(bytes(entry.bytes) for entry in entries).decode() == choice.message.content
    for entry in entries:
        assert -50 < entry.logprob <= 0
        assert len(entry.top_logprobs) == 3
        likeliest = [top.logprob for top in entry.top_logprobs]
        assert likeliest == sorted(likeliest, reverse=True)
        assert sum(map(math.exp, likeliest)) <= 1.0001
        # Greedy: the likeliest token is the chosen one.
        assert entry.top_logprobs[0].bytes == entry.bytes


def test_log_probabilities_come_in_a_stream_with_their_text(client):
    fields = QUESTION | {"logprobs": True, "top_logprobs": 1}
    chunks = list(client.chat.completions.create(**fields, stream=True))

    choices = [chunk.choices[0] for chunk in chunks if chunk.choices]
    texts = [choice for choice in choices if choice.delta.content]
    assert texts and all(choice.logprobs for choice in texts)
    told = [entry for choice in choices if choice.logprobs for entry in choice.logprobs.content]
    text = "".join(choice.delta.content for choice in texts)
    assert b"".join(bytes(entry.bytes) for entry in told).decode() == text
    assert 0 < len(told) <= QUESTION["max_tokens"]
    assert all(entry.top_logprobs[0].bytes == entry.bytes for entry in told)


def test_a_completion_tells_log_probabilities_in_columns(client):
    choice = client.completions.create(
        model=MODEL, prompt="Once upon a time", max_tokens=8, temperature=0, logprobs=2
    ).choices[0]

    told = choice.logprobs
    lengths = {len(told.tokens), len(told.token_logprobs), len(told.top_logprobs), len(told.text_offset)}
    assert len(lengths) == 1
    assert "".join(told.tokens) == choice.text
    for token, offset in zip(told.tokens, told.text_offset):
        assert choice.text[offset:].startswith(token)
    for token, logprob, top in zip(told.tokens, told.token_logprobs, told.top_logprobs):
        assert top[token] == logprob


def test_nothing_of_that_comes_when_nobody_asked(client):
    assert client.chat.completions.create(**QUESTION).choices[0].logprobs is None


def test_two_answers_are_different_ones_to_one_prompt(client):
    fields = QUESTION | {"n": 2, "temperature": 1.3, "seed": 5}
    answer = client.chat.completions.create(**fields)
    one = client.chat.completions.create(**(fields | {"n": 1}))

    assert [choice.index for choice in answer.choices] == [0, 1]
    texts = [choice.message.content for choice in answer.choices]
    assert texts[0] != texts[1]
    assert answer.usage.prompt_tokens == one.usage.prompt_tokens, "the prompt counts once"
    assert answer.usage.completion_tokens > one.usage.completion_tokens


def test_two_streamed_answers_come_together_and_each_ends(client):
    chunks = list(client.chat.completions.create(**(QUESTION | {"n": 2, "temperature": 1.3}), stream=True))
    seen = [chunk.choices[0] for chunk in chunks]
    for index in (0, 1):
        mine = [choice for choice in seen if choice.index == index]
        assert mine[0].delta.role == "assistant"
        assert "".join(choice.delta.content or "" for choice in mine)
        assert mine[-1].finish_reason in ("stop", "length")
        assert {choice.finish_reason for choice in mine[:-1]} == {None}


def test_a_banned_token_does_not_come_and_a_wanted_one_does(one_slot):
    with one_slot.client() as client:
        question = {"model": MODEL, "messages": SEA, "max_tokens": 1, "temperature": 0}

        def answer(**fields) -> str:
            return client.chat.completions.create(**question, **fields).choices[0].message.content

        usual = answer()
        token = str(first_token(one_slot, SEA[0]["content"]))
        banned = answer(logit_bias={token: -100})
        assert banned != usual
        assert answer(logit_bias={token: 100}) == usual
        assert len({answer(logit_bias={wanted: 100}) for wanted in ("300", "301", "302")}) == 3


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 0}, "n"),
        ({"n": 17}, "n"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logit_bias": {"sea": 5}}, "logit_bias"),
        ({"logit_bias": {"5": 1000}}, "logit_bias.5"),
        ({"logit_bias": {str(token): 1 for token in range(2000)}}, "logit_bias"),
    ],
)
def test_what_is_out_of_range_is_a_bad_request_that_names_it(client, fields, param):
    with pytest.raises(openai.BadRequestError) as raised:
        client.chat.completions.create(**(QUESTION | fields))
    assert raised.value.param == param


def test_a_token_that_is_not_in_the_vocabulary_is_a_bad_request(client):
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(**QUESTION, logit_bias={"2000000": 1})


def first_token(rbee, prompt: str) -> int:
    """The id of the first token of a greedy answer: jobs tell ids, OpenAI's API does not."""
    sampling = {"temperature": 0, "max_tokens": 1}
    operation = {"Infer": {"model": MODEL, "prompt": prompt, "sampling": sampling}}
    events = rbee.run_job(operation)
    return next(event["data"]["tokens"][0] for event in events if event["event"] == "token")
