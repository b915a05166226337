"""`client.completions` and `client.models`."""

import openai
import pytest

from rbee import MODEL


def test_a_completion_is_text_with_usage(client):
    answer = client.completions.create(model=MODEL, prompt="Once upon a time", max_tokens=12, temperature=0)

    assert answer.object == "text_completion"
    assert answer.model == MODEL
    assert answer.choices[0].text
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage.completion_tokens <= 12
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_streamed_completion_is_the_same_text(one_slot):
    question = {"model": MODEL, "prompt": "Once upon a time", "max_tokens": 24, "temperature": 0}
    with one_slot.client() as client:
        whole = client.completions.create(**question).choices[0]
        chunks = list(client.completions.create(**question, stream=True))

    assert {chunk.object for chunk in chunks} == {"text_completion"}
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == whole.text
    assert chunks[-1].choices[0].finish_reason == whole.finish_reason


def test_a_completion_uses_no_chat_template(client):
    prompt = "Once upon a time"
    completion = client.completions.create(model=MODEL, prompt=prompt, max_tokens=1)
    chat = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": prompt}], max_tokens=1
    )
    assert completion.usage.prompt_tokens < chat.usage.prompt_tokens


def test_a_prompt_of_token_ids_is_used_as_it_is(client):
    answer = client.completions.create(model=MODEL, prompt=[100, 200, 300], max_tokens=1)
    assert answer.usage.prompt_tokens == 3


def test_several_prompts_have_their_answers_in_their_order(one_slot):
    prompts = ["Once upon a time", "The capital of France is"]
    question = {"model": MODEL, "max_tokens": 8, "temperature": 0}
    with one_slot.client() as client:
        alone = [client.completions.create(prompt=prompt, **question) for prompt in prompts]
        together = client.completions.create(prompt=prompts, **question)
        chunks = list(client.completions.create(prompt=prompts, stream=True, **question))

    texts = [answer.choices[0].text for answer in alone]
    assert [choice.index for choice in together.choices] == [0, 1]
    assert [choice.text for choice in together.choices] == texts
    assert together.usage.completion_tokens == sum(answer.usage.completion_tokens for answer in alone)
    choices = [choice for chunk in chunks for choice in chunk.choices]
    assert ["".join(choice.text for choice in choices if choice.index == i) for i in (0, 1)] == texts


def test_a_text_with_a_gap_needs_a_model_that_fills_gaps(client):
    """The demo model has no tokens for that, and says so instead of writing something else."""
    with pytest.raises(openai.BadRequestError) as raised:
        client.completions.create(model=MODEL, prompt="def add(a, b):", suffix="return c", max_tokens=4)
    assert MODEL in raised.value.message


def test_models_are_listed_and_retrieved_by_alias(client):
    listed = client.models.list().data
    assert [model.id for model in listed] == [MODEL]
    model = client.models.retrieve(MODEL)
    assert (model.id, model.object) == (MODEL, "model")
    assert model.owned_by
