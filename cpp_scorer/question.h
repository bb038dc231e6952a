#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

/// A question as text: what the template's fields stand for, and its candidate endings.
struct Question {
  std::map<std::string, std::string> fields;
  std::vector<std::string> endings;
  std::optional<int64_t> label;  // index of the right ending, from 0
};

/// A question as token ids.
struct EncodedQuestion {
  std::vector<int64_t> prompt_ids;
  std::vector<std::vector<int64_t>> ending_ids;  // the end-of-text token included
  std::vector<int64_t> ending_bytes;             // UTF-8, without the leading space, at least 1
  int64_t truncated = 0;                         // tokens cut from the left of the context
  std::vector<int64_t> endings_truncated{};      // from the right of each ending; empty where none was cut

  /// Tokens of all endings: each is scored.
  int64_t num_scored() const {
    int64_t count = 0;
    for (const auto& ids : ending_ids) count += static_cast<int64_t>(ids.size());
    return count;
  }

  /// Length of the packed row: a candidate's last token predicts nothing and is not fed.
  int64_t num_tokens() const {
    return static_cast<int64_t>(prompt_ids.size()) + num_scored() - static_cast<int64_t>(ending_ids.size());
  }
};
