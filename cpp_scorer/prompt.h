#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "question.h"

/// What turns a question into ids; it comes from the model file, the scorer holds none of its own.
struct PromptConfig {
  std::string template_text;    // names {context}, {question} or {prompt}: the main field, which alone may be cut
  int64_t max_length = 0;       // tokens, prompt + longest candidate
  int64_t end_token_id = -1;    // closes every ending; -1 = endings are not closed
  int64_t max_ending = -1;      // tokens of an ending, past which it is cut on its right; -1 = any
  int64_t start_token_id = -1;  // opens every prompt; -1 = prompts are not opened
  std::string digest{};         // stands for the contract in predictions; empty in older exports
};

/// The prompt contract: templates, white space, separate encoding and the cut, the same as in lib/questions/prompt.py.
class PromptEncoder {
 public:
  using Encode = std::function<std::vector<int64_t>(std::string_view)>;

  /// Throws FatalError where the template lacks a main field or is not UTF-8.
  PromptEncoder(PromptConfig config, Encode encode);

  /// Throws RowError for a field that the question lacks, an empty prompt, an ending without tokens, and a template
  /// that leaves no room for endings.
  EncodedQuestion encode(const Question& question) const;

  const PromptConfig& config() const { return config_; }

  /// What stands for the question where an ending is scored without one: the template with every field empty, or
  /// "Answer:" where that leaves nothing.
  const std::vector<int64_t>& neutral_prompt_ids() const { return neutral_prompt_ids_; }

 private:
  /// The prompt's text: only `body`, the main field's value, may be cut.
  struct Pieces {
    std::string prefix, body, suffix;
  };

  Pieces render(const Question& question) const;
  std::vector<int64_t> opened(std::vector<int64_t> prompt_ids) const;
  void fit(const Pieces& pieces, EncodedQuestion& encoded) const;

  PromptConfig config_;
  Encode encode_;
  std::string prefix_template_, main_field_, suffix_template_;
  std::vector<int64_t> neutral_prompt_ids_;
};

/// Without white space at both ends: space, \t, \n, \v, \f and \r only, nothing else of Unicode.
std::string_view strip(std::string_view text);
