#pragma once

#include <nlohmann/json.hpp>
#include <string_view>

using Json = nlohmann::json;

/// The value that a text holds. Throws RowError where it is no JSON, is not UTF-8, holds a lone surrogate, or nests
/// deeper than any form does.
Json parse_json(std::string_view line);
