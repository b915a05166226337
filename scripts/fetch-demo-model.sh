#!/usr/bin/env bash
# Obtains SmolLM2-135M-Instruct Q4_1 (98 MB, Apache-2.0) and prints its path.
#
# usage: scripts/fetch-demo-model.sh [DIR]
#
# DIR is $RBEE_TEST_MODELS, or ~/.cache/rbee-test-models, if left out.
exec "$(dirname "${BASH_SOURCE[0]}")/fetch-model.sh" smollm2-135m "$@"
