#!/usr/bin/env bash
# Obtains Gemma 3 270M Q4_K_M (253 MB, Gemma licence) and prints its path.
#
# usage: scripts/fetch-gemma-model.sh [DIR]
#
# DIR is $RBEE_TEST_MODELS, or ~/.cache/rbee-test-models, if left out.
exec "$(dirname "${BASH_SOURCE[0]}")/fetch-model.sh" gemma3-270m "$@"
