#pragma once

#include <cstddef>
#include <string_view>

/// The split of Qwen2's tokenizers, as tokenizer.json writes it.
inline constexpr std::string_view kQwen2Split =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

/// Where the match of kQwen2Split that begins at byte `start` of checked UTF-8 ends. Every text is matched without gaps.
/// `start` must lie before the text's end. A whole text takes linear time.
size_t word_end(std::string_view text, size_t start);
