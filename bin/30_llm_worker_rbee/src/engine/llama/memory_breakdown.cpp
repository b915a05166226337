// What a context and its model take, by buffer type. llama.cpp gives it in C++ only, so Rust needs
// this in between; all else is done in memory_check.rs.

#include "llama-ext.h"

#include <cstddef>

struct rbee_buffer_use {
    ggml_backend_buffer_type_t type;
    size_t model;
    size_t context;
    size_t compute;
};

// Writes at most `capacity` entries and returns how many there are; 0 when llama.cpp could not say.
extern "C" size_t rbee_memory_breakdown(
        const struct llama_context * ctx, rbee_buffer_use * out, size_t capacity) noexcept {
    try {
        size_t count = 0;
        for (const auto & [type, use] : llama_get_memory_breakdown(ctx)) {
            if (count < capacity) {
                out[count] = { type, use.model, use.context, use.compute };
            }
            count++;
        }
        return count;
    } catch (...) {
        return 0;
    }
}
