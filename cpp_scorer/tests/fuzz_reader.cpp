// Fuzz target over the JSON reader: whatever a line holds, it is a question or one clear error.
//   g++:    fuzz_reader SECONDS [SEED], random mutations of the forms below
//   clang:  -DLIBFUZZER -fsanitize=fuzzer

#include <cstdint>
#include <string>
#include <string_view>

#include "errors.h"
#include "fuzz_main.h"
#include "json.h"
#include "prompt.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view line(reinterpret_cast<const char*>(data), size);
  try {
    const JsonRow row(line);
    const Question question = row.question();
    if (question.endings.size() < 2 || (question.label && *question.label >= static_cast<int64_t>(question.endings.size()))) {
      __builtin_trap();
    }
    const auto encode = [](std::string_view text) { return std::vector<int64_t>(text.begin(), text.end()); };
    PromptEncoder({"A {context}{question}{prompt} Z", 64, 1}, encode).encode(question);
  } catch (const RowError& error) {
    // An error must be a line of UTF-8 that can be quoted.
    if (std::string(error.what()).find('\n') != std::string::npos || json_quote(error.what()).size() < 3) __builtin_trap();
  }
  return 0;
}

const std::vector<std::string>& fuzz_seeds() {
  static const std::vector<std::string> seeds{
      R"({"id": "t-1", "context": "See \u00a7 2 <HOLDING>", "endings": ["a", "b", ""], "label": 1})",
      R"({"citing_prompt": "c\ud83d\ude00", "holding_0": "a", "holding_1": "b", "holding_10": "d", "label": 0})",
      R"({"question": "q", "choices": ["a", "b"], "answer": "B"})",
      R"({"prompt": "p", "responses": ["a", "b"], "scores": [1e3, -2.5]})",
      R"({"prompt": "p", "chosen": "a", "rejected": ["b", [{"role": "user", "content": "c"}]]})",
      R"([[[{"text": null}, true, false, 18446744073709551615, -0.0]]])"};
  return seeds;
}
