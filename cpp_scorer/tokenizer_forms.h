#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "tokenizer_json.h"

/// The form that tokenizer.json writes as these two fields, or null: every other gives ids that are not reproduced.
const TokenizerForm* find_form(const nlohmann::json& normalizer, const nlohmann::json& pre_tokenizer);

/// The families whose forms are known: "Qwen2, Llama 3, ...".
std::string known_families();
