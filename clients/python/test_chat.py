"""`client.chat.completions`: the shape of the answers, never what they claim."""

import json

import pytest

from rbee import MODEL

SEA = [{"role": "user", "content": "Write one sentence about the sea."}]


def test_an_answer_is_one_assistant_message_with_usage(client):
    answer = client.chat.completions.create(model=MODEL, messages=SEA, max_tokens=64, temperature=0)

    assert answer.object == "chat.completion"
    assert answer.model == MODEL
    assert answer.id and answer.created > 1_700_000_000
    assert [choice.index for choice in answer.choices] == [0]
    message = answer.choices[0].message
    assert message.role == "assistant"
    assert message.content.strip()
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage.prompt_tokens > 0
    assert 0 < answer.usage.completion_tokens <= 64
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_stream_gives_the_text_of_the_whole_answer_in_parts(one_slot):
    with one_slot.client() as client:
        question = {"model": MODEL, "messages": SEA, "max_tokens": 48, "temperature": 0}
        whole = client.chat.completions.create(**question).choices[0]
        chunks = list(client.chat.completions.create(**question, stream=True))

    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert {chunk.model for chunk in chunks} == {MODEL}
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert text_of(chunks) == whole.message.content
    assert sum(bool(delta) for delta in deltas(chunks)) > 3, "the text came in a few large parts"
    reasons = [c.choices[0].finish_reason for c in chunks if c.choices]
    assert reasons[-1] == whole.finish_reason
    assert set(reasons[:-1]) == {None}


def test_usage_comes_in_the_last_chunk_when_it_is_asked_for(client):
    question = {"model": MODEL, "messages": SEA, "max_tokens": 16, "stream": True}

    with_usage = list(client.chat.completions.create(**question, stream_options={"include_usage": True}))
    assert with_usage[-1].choices == []
    assert with_usage[-1].usage.prompt_tokens > 0
    assert 0 < with_usage[-1].usage.completion_tokens <= 16
    assert all(chunk.usage is None for chunk in with_usage[:-1])

    without = list(client.chat.completions.create(**question))
    assert all(chunk.usage is None for chunk in without)


def test_max_tokens_ends_an_answer_with_the_reason_length(client):
    question = {"model": MODEL, "messages": SEA, "temperature": 0}
    answer = client.chat.completions.create(**question, max_tokens=7)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 7

    newer_name = client.chat.completions.create(**question, max_completion_tokens=5)
    assert newer_name.usage.completion_tokens == 5


def test_a_system_message_is_part_of_the_prompt(client):
    system = {"role": "system", "content": "You answer in the style of an old sailor."}
    plain = client.chat.completions.create(model=MODEL, messages=SEA, max_tokens=1)
    instructed = client.chat.completions.create(model=MODEL, messages=[system, *SEA], max_tokens=1)
    assert instructed.usage.prompt_tokens != plain.usage.prompt_tokens


def test_a_last_message_of_the_assistant_is_continued_unless_it_is_said_to_be_complete(client):
    """Seen from the prompt: a message that is continued has no end, and nothing begins after it."""

    def prompt_tokens(*more: dict, **fields) -> int:
        created = client.chat.completions.create(
            model=MODEL, messages=[*SEA, *more], max_tokens=1, extra_body=fields
        )
        return created.usage.prompt_tokens

    begun = {"role": "assistant", "content": "The sea is"}
    continued = prompt_tokens(begun)
    assert prompt_tokens() < continued < prompt_tokens(begun, continue_final_message=False)
    assert prompt_tokens(begun, continue_final_message=True, add_generation_prompt=False) == continued


def test_variables_that_the_chat_template_does_not_know_change_nothing(client):
    """The demo model's template knows none, so the prompt stays the same."""
    plain = client.chat.completions.create(model=MODEL, messages=SEA, max_tokens=1)
    told = client.chat.completions.create(
        model=MODEL, messages=SEA, max_tokens=1, extra_body={"chat_template_kwargs": {"enable_thinking": False}}
    )
    assert told.usage.prompt_tokens == plain.usage.prompt_tokens


def test_a_message_of_content_parts_is_a_message(client):
    parts = [{"type": "text", "text": "Write one sentence "}, {"type": "text", "text": "about the sea."}]
    messages = [{"role": "user", "content": parts}]
    answer = client.chat.completions.create(model=MODEL, messages=messages, max_tokens=4, temperature=0)
    assert answer.usage.completion_tokens == 4


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_text_ends_the_answer_before_it(one_slot, stream):
    with one_slot.client() as client:
        question = {"model": MODEL, "messages": SEA, "max_tokens": 48, "temperature": 0}
        text = client.chat.completions.create(**question).choices[0].message.content
        stop = text.split()[3]
        answer = client.chat.completions.create(**question, stop=["\0never", stop], stream=stream)
        if stream:
            chunks = list(answer)
            stopped, reason = text_of(chunks), chunks[-1].choices[0].finish_reason
        else:
            stopped, reason = answer.choices[0].message.content, answer.choices[0].finish_reason

    assert stopped == text[: text.index(stop)]
    assert reason == "stop"


def test_one_seed_gives_one_answer_and_another_seed_another(one_slot):
    with one_slot.client() as client:

        def answer(seed: int) -> str:
            created = client.chat.completions.create(
                model=MODEL, messages=SEA, max_tokens=16, temperature=1.2, seed=seed
            )
            return created.choices[0].message.content

        assert answer(7) == answer(7)
        assert len({answer(seed) for seed in range(4)}) > 1


def test_no_character_is_cut_in_two(client):
    """Each part of a stream is whole characters: parts of an emoji would be replaced on the way."""
    text = "Zażółć gęślą jaźń 🐝🐝 日本語 नमस्ते"
    form = {"name": "words", "schema": {"const": text}}
    chunks = list(
        client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "Say it."}],
            response_format={"type": "json_schema", "json_schema": form},
            max_tokens=200,
            stream=True,
        )
    )
    assert json.loads(text_of(chunks)) == text
    assert len(deltas(chunks)) > 10, "it comes in parts"


def deltas(chunks) -> list[str]:
    return [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]


def text_of(chunks) -> str:
    return "".join(deltas(chunks))
