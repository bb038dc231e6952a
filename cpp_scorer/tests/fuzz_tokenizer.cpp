// Fuzz target over the tokenizer: whatever a text holds, it has ids or one clear error, and so has a tokenizer.json.
//   g++:    fuzz_tokenizer SECONDS [SEED], random mutations of the texts below
//   clang:  -DLIBFUZZER -fsanitize=fuzzer

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "errors.h"
#include "fuzz_main.h"
#include "small_tokenizer.h"
#include "tokenizer.h"
#include "tokenizer_json.h"
#include "unicode.h"
#include "utf8.h"

namespace {

constexpr int64_t kNumTokens = 272;  // at most, of each of the small tokenizers

/// One file of each kind of normaliser, split and vocabulary.
const std::vector<std::string>& files() {
  static const std::vector<std::string> files{
      small_tokenizer_json(),
      small_tokenizer_json(form::kNone, form::split_by(kLlama3Pattern)),
      small_tokenizer_json(form::kNone, form::split_by(kO200kPattern)),
      small_tokenizer_json(form::kNone, form::kDigits),
      small_character_tokenizer_json(form::kStartAndSpaces, form::kNone),
      small_character_tokenizer_json(form::kNone, form::metaspace("first"))};
  return files;
}

const std::vector<Tokenizer>& tokenizers() {
  static const std::vector<Tokenizer> loaded = [] {
    std::vector<Tokenizer> read;
    for (const std::string& json : files()) read.emplace_back(parse_tokenizer_json(json));
    return read;
  }();
  return loaded;
}

void check_encoding(const Tokenizer& tokenizer, std::string_view text) {
  try {
    for (const int64_t id : tokenizer.encode(text)) {
      if (id < 0 || id >= kNumTokens) __builtin_trap();
    }
  } catch (const RowError&) {
    if (find_invalid_utf8(text) == text.npos) __builtin_trap();
  }
}

void check_composition(std::string_view text) {
  if (find_invalid_utf8(text) != text.npos) return;
  const std::string composed = to_nfc(text);
  if (to_nfc(composed) != composed || find_invalid_utf8(composed) != composed.npos) __builtin_trap();
  if (!may_change_under_nfc(text) && composed != text) __builtin_trap();
}

void load(const std::string& json) {
  try {
    Tokenizer(parse_tokenizer_json(json)).encode("It's caf\u00e9 abc.");
  } catch (const FatalError&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  for (const Tokenizer& tokenizer : tokenizers()) check_encoding(tokenizer, text);
  check_composition(text);
  if (size < 5) return 0;
  // The same bytes as a change to a file: one says which, two where, one how many are dropped, the rest stands instead.
  std::string changed = files()[data[0] % files().size()];
  const size_t at = (data[1] << 8 | data[2]) % changed.size();
  load(changed.replace(at, data[3] % 32, text.substr(4)));
  return 0;
}

const std::vector<std::string>& fuzz_seeds() {
  static const std::vector<std::string> seeds{
      "hello<|end|> caf\u00e9 e\u0301 It's 12(b)(6).\r\n\r\n  x",
      "\u1112\u1161\u11AB\uD558\u11AB\u0301\u0323\u0302\u212B\u0958",
      "\U0001F468\u200D\U0001F469\u200D\U0001F467\uFE0F \u00A0\u3000\u2028'\u017F'LL",
      "\xED\xA0\x80\xF4\x90\x80\x80\xC0\x80\xFF",
      "McDonald OK'LL \u0301AB \u4E2DA \u2581\u2581a b  ab",
      "aab\x05\"id\": 300",
      "bab\x05[\"h\", \"e\"], {}, null, -1"};
  return seeds;
}
