"""Functions: the calls of a model that must make them, and the conversation that goes on after them.

The demo model is too small to choose a function by itself; where a call is required, a grammar holds it
to one, and its shape is what is looked at here.
"""

import json

import openai
import pytest

from rbee import MODEL

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tells the weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "maxLength": 20},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
            },
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
        "strict": True,
    },
}
CLOCK = {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object", "properties": {}}}}
ASK = [{"role": "user", "content": "What is the weather in Paris, in celsius?"}]
REQUIRED = {
    "model": MODEL,
    "messages": ASK,
    "tools": [WEATHER],
    "tool_choice": "required",
    "parallel_tool_calls": False,
    "temperature": 0,
    "max_tokens": 200,
}


def test_a_required_call_names_the_function_and_obeys_its_schema(client):
    choice = client.chat.completions.create(**REQUIRED).choices[0]

    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    [call] = choice.message.tool_calls
    assert call.id
    assert call.type == "function"
    assert call.function.name == "get_weather"
    obeys(call.function.arguments)


def test_a_streamed_call_is_the_same_call_in_pieces(one_slot):
    with one_slot.client() as client:
        whole = client.chat.completions.create(**REQUIRED).choices[0].message.tool_calls[0]
        chunks = list(client.chat.completions.create(**REQUIRED, stream=True))

    pieces = [piece for chunk in chunks for piece in chunk.choices[0].delta.tool_calls or []]
    assert {piece.index for piece in pieces} == {0}
    first, *rest = pieces
    assert first.id and first.type == "function"
    assert first.function.name == "get_weather"
    assert all(piece.id is None and piece.function.name is None for piece in rest)
    assert rest, "the whole call came at once"
    assert "".join(piece.function.arguments for piece in pieces) == whole.function.arguments
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_the_openai_package_puts_a_streamed_call_together(client):
    """`stream()` of the package checks each event and parses arguments of strict functions."""
    with client.chat.completions.stream(**REQUIRED) as stream:
        completion = stream.get_final_completion()
    [call] = completion.choices[0].message.tool_calls
    assert call.function.parsed_arguments["unit"] in ("celsius", "fahrenheit")


def test_a_named_function_is_the_one_that_is_called(client):
    question = REQUIRED | {
        "tools": [CLOCK, WEATHER],
        "tool_choice": {"type": "function", "function": {"name": "get_time"}},
    }
    calls = client.chat.completions.create(**question).choices[0].message.tool_calls
    assert {call.function.name for call in calls} == {"get_time"}


def test_no_call_comes_where_none_is_allowed(client):
    question = REQUIRED | {"tool_choice": "none", "max_tokens": 8}
    choice = client.chat.completions.create(**question).choices[0]
    assert choice.message.tool_calls is None
    assert choice.finish_reason in ("stop", "length")


def test_the_conversation_goes_on_with_the_result_of_the_call(client):
    """The message comes back as the package gives it, and the result is part of the next prompt."""
    asked = client.chat.completions.create(**REQUIRED)
    message = asked.choices[0].message
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": '{"celsius": 18}'}
    answer = client.chat.completions.create(
        model=MODEL, messages=[*ASK, message, result], tools=[WEATHER], tool_choice="none", max_tokens=8
    )
    assert answer.choices[0].message.role == "assistant"
    # Functions that may not be called are not in the prompt.
    without = client.chat.completions.create(
        model=MODEL, messages=ASK, tools=[WEATHER], tool_choice="none", max_tokens=1
    )
    assert answer.usage.prompt_tokens > without.usage.prompt_tokens


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tool_choice": {"type": "function", "function": {"name": "get_wether"}}}, "tool_choice"),
        ({"tools": openai.NOT_GIVEN}, "tool_choice"),
        ({"tools": [{"type": "function", "function": {"name": "two words"}}]}, "tools[0].function.name"),
        ({"tools": [WEATHER, WEATHER]}, "tools[1].function.name"),
    ],
)
def test_what_is_wrong_with_functions_is_a_bad_request_that_names_it(client, fields, param):
    with pytest.raises(openai.BadRequestError) as raised:
        client.chat.completions.create(**(REQUIRED | fields))
    assert raised.value.param == param


def obeys(arguments: str) -> None:
    arguments = json.loads(arguments)
    assert set(arguments) == {"city", "unit"}
    assert isinstance(arguments["city"], str)
    assert arguments["unit"] in ("celsius", "fahrenheit")
