"""`response_format` and the fields of vLLM and llama-server for the same: the text has the form that was asked for."""

import json
import re

import openai
import pytest

from rbee import MODEL

ASK = [{"role": "user", "content": "Describe a bee."}]
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "legs": {"type": "integer", "minimum": 0, "maximum": 9},
        "kind": {"enum": ["insect", "bird"]},
    },
    "required": ["name", "legs", "kind"],
    "additionalProperties": False,
}


def answer(client, **fields) -> str:
    question = {"model": MODEL, "messages": ASK, "max_tokens": 200, "temperature": 0}
    choice = client.chat.completions.create(**question, **fields).choices[0]
    assert choice.finish_reason == "stop", choice
    return choice.message.content


@pytest.mark.parametrize("seed", range(3))
def test_a_json_schema_is_obeyed_whatever_is_drawn(client, seed):
    named = {"name": "animal", "strict": True, "schema": SCHEMA}
    question = {"model": MODEL, "messages": ASK, "max_tokens": 200, "temperature": 1.5, "seed": seed}
    created = client.chat.completions.create(
        **question, response_format={"type": "json_schema", "json_schema": named}
    )
    obeys(created.choices[0].message.content)


def test_a_streamed_answer_obeys_its_schema(client):
    named = {"name": "animal", "strict": True, "schema": SCHEMA}
    chunks = client.chat.completions.create(
        model=MODEL,
        messages=ASK,
        max_tokens=200,
        temperature=0,
        response_format={"type": "json_schema", "json_schema": named},
        stream=True,
    )
    obeys("".join(chunk.choices[0].delta.content or "" for chunk in chunks))


def test_a_json_object_is_one(client):
    # The object may be long: that it is JSON can be known of a whole one only.
    question = {"model": MODEL, "messages": ASK, "max_tokens": 400, "temperature": 0}
    created = client.chat.completions.create(**question, response_format={"type": "json_object"})
    choice = created.choices[0]
    assert choice.message.content.lstrip().startswith("{")
    if choice.finish_reason == "stop":
        assert isinstance(json.loads(choice.message.content), dict)


@pytest.mark.parametrize("field", ["json_schema", "guided_json"])
def test_a_schema_can_be_said_as_in_llama_server_and_vllm(client, field):
    obeys(answer(client, extra_body={field: SCHEMA}))


def test_a_choice_is_one_of_the_texts(client):
    texts = ["an insect (six legs)", "a bird"]
    assert answer(client, extra_body={"guided_choice": texts}) in texts


def test_a_regular_expression_matches_the_whole_text(client):
    assert re.fullmatch(r"[A-C]{3}-[0-9]{2}", answer(client, extra_body={"guided_regex": "[A-C]{3}-[0-9]{2}"}))


def test_a_completion_can_have_a_form_as_well(client):
    created = client.completions.create(
        model=MODEL, prompt="The number is ", max_tokens=8, extra_body={"guided_regex": "[0-9]{3}"}
    )
    assert re.fullmatch("[0-9]{3}", created.choices[0].text)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"extra_body": {"grammar": 'root ::= "a"'}}, "grammar"),
        ({"extra_body": {"guided_regex": "a", "guided_json": {}}}, "guided_regex"),
    ],
)
def test_a_form_that_cannot_be_is_a_bad_request_that_names_it(client, fields, param):
    with pytest.raises(openai.BadRequestError) as raised:
        client.chat.completions.create(model=MODEL, messages=ASK, max_tokens=4, **fields)
    assert raised.value.param == param


def test_a_schema_that_no_text_obeys_is_a_bad_request(client):
    impossible = {"type": "integer", "minimum": 5, "maximum": 4}
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(
            model=MODEL, messages=ASK, max_tokens=4, extra_body={"json_schema": {"allOf": [impossible]}}
        )


def obeys(text: str) -> None:
    animal = json.loads(text)
    assert set(animal) == {"name", "legs", "kind"}
    assert isinstance(animal["name"], str) and len(animal["name"]) <= 12
    assert animal["legs"] in range(10)
    assert animal["kind"] in ("insect", "bird")
