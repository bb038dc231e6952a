#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

/// A request of OpenAI's /v1/completions, as far as a scorer can follow it: the log-probs of tokens that are given
/// (echo), and none that it makes up.
struct Completion {
  struct Prompt {
    std::string text;           // empty where it came as ids
    std::vector<int64_t> ids;   // at least one
  };

  std::vector<Prompt> prompts;
  bool with_logprobs = false;
  bool with_blank = false;  // max_tokens 1: an empty token follows each prompt, for clients that drop the last one

  using Encode = std::function<std::vector<int64_t>(std::string_view)>;

  /// Throws RowError, which names the field, for what it cannot follow, and for more than `most_prompts`, of which none
  /// is encoded then. `encode` makes the ids of a prompt's text.
  static Completion read(std::string_view json, const Encode& encode, size_t most_prompts);

  /// The response: `logprobs` are of each prompt's tokens, but for the first.
  std::string response(const std::vector<std::vector<float>>& logprobs, const std::string& model) const;
};
