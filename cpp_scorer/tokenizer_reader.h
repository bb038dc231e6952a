#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "tokenizer_json.h"

/// The JSON of a tokenizer file. The vocabulary and the merges, nearly all of it, go into `spec` as they are read; in
/// what is returned they stand as an empty object and an empty list. Throws FatalError for broken JSON, a token without
/// a valid id, a merge that is no pair, a field that is there twice, and nesting deeper than any known form has.
nlohmann::json read_tokenizer(const std::string& text, TokenizerSpec& spec);

/// Throws FatalError that names the field.
[[noreturn]] void fail_at_field(const std::string& field, const std::string& what);

uint32_t token_id(const nlohmann::json& value, const std::string& token);
