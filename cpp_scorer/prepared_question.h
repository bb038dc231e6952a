#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "line_reader.h"
#include "prompt.h"
#include "question.h"

/// A question on its way to the session; or, where `error` says something, what is left of a broken row.
struct PreparedQuestion {
  std::string id;    // the row's own, else its number from 0
  size_t line = 0;   // from 1
  std::optional<int64_t> label;
  EncodedQuestion encoded;
  std::string error;
};

/// What a row may ask for; one that asks for more becomes an error record.
struct RowLimits {
  int64_t tokens = 0;      // of the prompt and all endings: attention takes memory by its square
  int64_t candidates = 0;  // the sums over their tokens take memory by tokens x candidates
};

/// Parses and encodes the line of row `row`, counted from 0. Whatever is at fault with it is in its `error`.
PreparedQuestion prepare(const Line& line, size_t row, const PromptEncoder& encoder, const RowLimits& limits);
