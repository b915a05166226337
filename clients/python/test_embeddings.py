"""`client.embeddings` and `/v1/rerank`, with a model that makes vectors; and a chat model, which makes none."""

import base64
import math
import struct

import openai
import pytest

from rbee import EMBEDDING_MODEL, MODEL

TEXTS = ["A bee makes honey.", "Bees produce honey.", "The stock market fell."]


@pytest.fixture(scope="module")
def embedder(start):
    """An rbee with the embedding model."""
    rbee = start("embedder")
    rbee.load_embedding_model()
    return rbee


@pytest.fixture
def client_of_embedder(embedder):
    with embedder.client() as client:
        yield client


def test_vectors_have_the_length_one_and_like_texts_are_near(client_of_embedder):
    """The package asks for base64 by itself and decodes it."""
    answer = client_of_embedder.embeddings.create(model=EMBEDDING_MODEL, input=TEXTS)

    assert [item.index for item in answer.data] == [0, 1, 2]
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > 0
    vectors = [item.embedding for item in answer.data]
    assert all(math.isclose(dot(vector, vector), 1, abs_tol=1e-3) for vector in vectors)
    honey, bees, market = vectors
    assert dot(honey, bees) > dot(honey, market) + 0.2


def test_floats_and_base64_are_the_same_vector(client_of_embedder):
    def vector(encoding: str) -> list[float]:
        created = client_of_embedder.embeddings.create(
            model=EMBEDDING_MODEL, input=TEXTS[0], encoding_format=encoding
        )
        return created.data[0].embedding

    packed, floats = vector("base64"), vector("float")
    assert isinstance(packed, str), "what is asked for by name is not decoded"
    assert unpacked(packed) == pytest.approx(floats, abs=1e-6)


def test_other_dimensions_than_the_models_are_a_bad_request(client_of_embedder):
    fits = client_of_embedder.embeddings.create(model=EMBEDDING_MODEL, input="Hi", dimensions=384)
    assert len(fits.data[0].embedding) == 384
    with pytest.raises(openai.BadRequestError) as raised:
        client_of_embedder.embeddings.create(model=EMBEDDING_MODEL, input="Hi", dimensions=100)
    assert raised.value.param == "dimensions"
    assert "384" in raised.value.message


def test_documents_are_ranked_by_how_well_they_answer(client_of_embedder):
    answer = client_of_embedder.post(
        "/rerank",
        cast_to=object,
        body={"model": EMBEDDING_MODEL, "query": "What do bees make?", "documents": TEXTS[::-1], "top_n": 2},
    )
    assert {result["index"] for result in answer["results"]} == {1, 2}
    scores = [result["relevance_score"] for result in answer["results"]]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("text", ["", [], ["a", ""], {"a": 1}])
def test_inputs_that_are_none_are_a_bad_request(client, text):
    with pytest.raises(openai.BadRequestError) as raised:
        client.embeddings.create(model=MODEL, input=text)
    assert raised.value.param.startswith("input")


def test_a_chat_model_makes_no_vectors_and_says_so(client):
    with pytest.raises(openai.BadRequestError) as raised:
        client.embeddings.create(model=MODEL, input="Hi")
    assert MODEL in raised.value.message


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b))


def unpacked(text: str) -> list[float]:
    raw = base64.b64decode(text)
    return list(struct.unpack(f"<{len(raw) // 4}f", raw))
