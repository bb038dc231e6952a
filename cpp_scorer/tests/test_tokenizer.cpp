// The parts of the tokenizer, and what it refuses. That its ids are those of the `tokenizers` library is held by
// tests/cpp_scorer/test_cpp_tokenizer.py.

#include <chrono>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "check.h"
#include "errors.h"
#include "small_tokenizer.h"
#include "tokenizer.h"
#include "tokenizer_json.h"
#include "utf8.h"

namespace {

using Ids = std::vector<int64_t>;

constexpr int64_t kHello = 259, kSpaceHello = 260, kBc = 261, kAb = 262, kEightA = 265;
constexpr int64_t kEAcute = 267, kAbc = 268, kEnd = 269, kCafe = 270;
// Of the tokenizer of characters.
constexpr int64_t kMark = 256, kA = 257, kB = 258, kC = 259, kCharEAcute = 261;
constexpr int64_t kMarkA = 262, kCharAb = 263, kMarkAb = 264, kTwoMarks = 265, kEAcuteA = 267, kGreaterMarkB = 269;
constexpr int64_t kCharEnd = 270, kBMarkC = 271;

Tokenizer read(const std::string& json) { return Tokenizer(parse_tokenizer_json(json)); }

Tokenizer small_tokenizer() { return read(small_tokenizer_json()); }

/// One of the small tokenizers' files with one place changed.
std::string changed(std::string json, const std::string& place, const std::string& replacement) {
  const size_t at = json.find(place);
  CHECK(at != std::string::npos);
  return json.replace(at, place.size(), replacement);
}

void invalid_utf8_is_found_at_its_byte() {
  CHECK_EQUAL(find_invalid_utf8("a\u007F\u0080\u07FF\u0800\uD7FF\uE000\uFFFF\U00010000\U0010FFFF"), std::string::npos);
  const std::pair<std::string_view, size_t> cases[] = {
      {"a\x80", 1},         {"\xC0\x80", 0},         {"\xC1\xBF", 0},         {"\xE0\x9F\xBF", 0},
      {"\xED\xA0\x80", 0},  {"\xED\xBF\xBF", 0},     {"\xF0\x8F\xBF\xBF", 0}, {"\xF4\x90\x80\x80", 0},
      {"\xF5\x80\x80\x80", 0}, {"ab\xC3", 2},        {"\xE2\x82", 0},         {"\xF0\x9F\x98", 0},
      {"\xE2\x28\xA1", 0},  {"\xF0\x9F\x98\x28", 0}, {"\xFF", 0}};
  for (const auto& [text, at] : cases) CHECK_EQUAL(find_invalid_utf8(text), at);
  CHECK_THROWS(small_tokenizer().encode("ab\xED\xA0\x80"), RowError, "not UTF-8, at byte 2");
}

void merges_come_in_rank_order() {
  const Tokenizer tokenizer = small_tokenizer();
  CHECK_EQUAL(tokenizer.encode("hello hello"), (Ids{kHello, kSpaceHello}));
  CHECK_EQUAL(tokenizer.encode("abc"), (Ids{'a', kBc}));
  CHECK_EQUAL(tokenizer.encode(std::string(20, 'a')), (Ids{kEightA, kEightA, kEightA - 1}));
  CHECK_EQUAL(tokenizer.encode("e\u0301"), Ids{kEAcute});
  CHECK_EQUAL(tokenizer.encode(""), Ids{});
}

void characters_fall_back_to_bytes() {
  const Tokenizer gemma = read(small_character_tokenizer_json(form::kSpaces, form::kAtSpaces));
  CHECK_EQUAL(gemma.encode("ab ab"), (Ids{kCharAb, kMarkAb}));
  CHECK_EQUAL(gemma.encode("éaé"), (Ids{kEAcuteA, kCharEAcute}));
  CHECK_EQUAL(gemma.encode("d\u20ACa"), (Ids{'d', 0xE2, 0x82, 0xAC, kA}));
  CHECK_EQUAL(gemma.encode("     a"), (Ids{kTwoMarks + 1, kMarkA}));
  // A merge may cross the start of a word, here behind > alone.
  CHECK_EQUAL(gemma.encode("a> b a"), (Ids{kA, kGreaterMarkB, kMarkA}));
}

void bytes_without_a_token_are_left_out() {
  const std::string json = changed(small_tokenizer_json(), "\"d\": 100", "\"dd\": 100");
  CHECK_EQUAL(read(json).encode("adbd"), Ids{kAb});
  CHECK_EQUAL(read(json).encode("d"), Ids{});
  CHECK_THROWS(read(changed(json, "\"unk_token\": null", "\"unk_token\": \"<|end|>\"")), FatalError, "'d' is missing");
  CHECK_THROWS(read(changed(json, "\"byte_fallback\": false", "\"byte_fallback\": true")), FatalError,
               "'d' is missing");
  // Bytes that UTF-8 never has need no token, whatever is said about unknown ones.
  const std::string never = changed(small_tokenizer_json(), "\"À\": 192", "\"ÀÀ\": 192");
  CHECK_EQUAL(read(changed(never, "\"unk_token\": null", "\"unk_token\": \"<|end|>\"")).encode("hello"), Ids{kHello});
}

void a_mark_begins_the_text_or_every_piece() {
  const auto encode = [](const std::string& normalizer, const std::string& pre_tokenizer, std::string_view text) {
    return read(small_character_tokenizer_json(normalizer, pre_tokenizer)).encode(text);
  };
  const std::string text = "a<|end|>a";
  CHECK_EQUAL(encode(form::kSpaces, form::kNone, text), (Ids{kA, kCharEnd, kA}));
  CHECK_EQUAL(encode(form::kStartAndSpaces, form::kNone, text), (Ids{kMarkA, kCharEnd, kMarkA}));
  CHECK_EQUAL(encode(form::kStartAndSpaces, form::kNone, " ab"), (Ids{kMark, kMarkAb}));
  CHECK_EQUAL(encode(form::kNone, form::metaspace("first"), text), (Ids{kMarkA, kCharEnd, kA}));
  CHECK_EQUAL(encode(form::kNone, form::metaspace("first"), " ab"), (Ids{kMarkAb}));
  CHECK_EQUAL(encode(form::kNone, form::metaspace("always"), text), (Ids{kMarkA, kCharEnd, kMarkA}));
  CHECK_EQUAL(encode(form::kNone, form::metaspace("never"), text), (Ids{kA, kCharEnd, kA}));
}

void added_tokens_are_found_inside_text() {
  const Tokenizer tokenizer = small_tokenizer();
  CHECK_EQUAL(tokenizer.encode("hello<|end|> hello<|end|><|end"),
              (Ids{kHello, kEnd, kSpaceHello, kEnd, '<', '|', 'e', 'n', 'd'}));
  CHECK_EQUAL(tokenizer.encode("caf\u00E9hello"), (Ids{kCafe, kHello}));
  CHECK_EQUAL(tokenizer.encode("cafe\u0301"), Ids{kCafe});
  // What follows an added token does not combine with what stands before it.
  CHECK_EQUAL(tokenizer.encode("e<|end|>\u0301"), (Ids{'e', kEnd, 0xCC, 0x81}));
  // The normaliser makes b▁c of the token, and with Prepend ▁b▁c, which begins pieces alone.
  CHECK_EQUAL(read(small_character_tokenizer_json(form::kSpaces, form::kNone)).encode("ab c"), (Ids{kA, kBMarkC}));
  const Tokenizer llama2 = read(small_character_tokenizer_json(form::kStartAndSpaces, form::kNone));
  CHECK_EQUAL(llama2.encode("b ca"), (Ids{kBMarkC, kA}));
  CHECK_EQUAL(llama2.encode("ab c"), (Ids{kMarkAb, kMark, kC}));
}

void added_tokens_take_white_space() {
  const std::string json = small_tokenizer_json();
  const Tokenizer left = read(changed(json, "\"lstrip\": false", "\"lstrip\": true"));
  CHECK_EQUAL(left.encode("a \u3000\n<|end|> <|end|> a"), (Ids{'a', kEnd, kEnd, ' ', 'a'}));
  const Tokenizer right = read(changed(json, "\"rstrip\": false", "\"rstrip\": true"));
  CHECK_EQUAL(right.encode("a <|end|> \u3000\n<|end|>a"), (Ids{'a', ' ', kEnd, kEnd, 'a'}));
}

void what_would_give_other_ids_is_refused() {
  const std::vector<std::vector<std::string>> cases = {
      // place, replacement, what the error must hold
      {"\"1.0\"", "\"2.0\"", "field 'version'"},
      {"\"truncation\": null", "\"truncation\": {\"max_length\": 8}", "'truncation'"},
      {"\"padding\": null", "\"padding\": {}", "'padding'"},
      {"{\"type\": \"NFC\"}", "null", "after the normalizer null is not supported, only the forms of Qwen2, Llama 3,"},
      {"{\"type\": \"NFC\"}", "{\"type\": \"NFKC\"}", "NFKC"},
      {"\\\\p{N}|", "\\\\p{N}{1,3}|", "'pre_tokenizer'"},
      {"\"Isolated\"", "\"Removed\"", "'pre_tokenizer'"},
      {"\"add_prefix_space\": false", "\"add_prefix_space\": true", "'pre_tokenizer'"},
      {"\"use_regex\": false", "\"use_regex\": true", "'pre_tokenizer'"},
      {"\"pretokenizers\": [", "\"pretokenizers\": [[], \"\", null, ", "'pre_tokenizer'"},
      {"\"pre_tokenizer\": ", "\"pre_tokenizer\": null, \"pre_tokenizer\": ", "'pre_tokenizer': is there twice"},
      {"\"pre_tokenizer\": ", "\"x\": " + std::string(300'000, '['), "nested deeper than 32"},
      {"\"post_processor\": null", "\"post_processor\": {\"type\": \"BertProcessing\"}", "'post_processor'"},
      {"\"model\"", "\"future\": 1, \"model\"", "future"},
      {"\"BPE\"", "\"Unigram\"", "'type'"},
      {"\"dropout\": null", "\"dropout\": 0.1", "'dropout': 0.1"},
      {"\"end_of_word_suffix\": \"\"", "\"end_of_word_suffix\": \"</w>\"", "'end_of_word_suffix'"},
      {"\"continuing_subword_prefix\": \"\"", "\"continuing_subword_prefix\": \"##\"", "'continuing_subword_prefix'"},
      {"\"ignore_merges\": false", "\"ignore_merges\": 0", "'ignore_merges'"},
      {"\"single_word\": false", "\"single_word\": true", "'single_word'"},
      {"\"lstrip\": false", "\"lstrip\": null", "lacks 'lstrip'"},
      {"\"id\": 269", "\"id\": 400", "'<|end|>' has id 400, but loading it elsewhere gives 269"},
      {"cafe\u0301", "", "'' is empty"},
      {"cafe\u0301", "<|end|>", "'<|end|>' "},
      {"\"hello\": 259", "\"hullo\": 259", "'hello' is missing"},
      {"\"a\": 97, ", "", "'a' is missing"},
      {"\"hello\": 259", "\"hello\": -1", "'hello': has no valid id"},
      {"\"hello\": 259", "\"hello\": {\"x\": 1}", "'hello': has no valid id"},
      {"\"hello\": 259", "\"hello\": 259, \"hello\": 259", "'hello': is there twice"},
      {"[\"h\", \"e\"]", "\"h e l\"", "merge 1 is no pair"},
      {"[\"h\", \"e\"]", "\"#version: 0.2\"", "merge 1 is no pair"},
      {"[\"h\", \"e\"]", "[\"h\"]", "merge 1 is no pair"},
      {"[\"h\", \"e\"]", "[[\"h\"], \"e\"]", "merge 1 is no pair"},
      {"[\"h\", \"e\"]", "{\"h\": \"e\"}", "merge 1 is no pair"},
      {"\"vocab\": {", "\"vocab\": 3, \"words\": {", "'model.words'"},
      {"\"merges\": [", "\"merges\": 3, \"merged\": [", "'model.merged'"},
      {"\"merges\"", "\"merges\": \xFF", "broken JSON or not UTF-8"},
      {"\"dropout\": null", "\"dropout\": 1e999", "a number is out of range"},
      {"]}}", "", "broken JSON"}};
  for (const auto& parts : cases) {
    CHECK_THROWS(read(changed(small_tokenizer_json(), parts[0], parts[1])), FatalError, parts[2]);
  }
  const std::string characters = small_character_tokenizer_json(form::kSpaces, form::kNone);
  CHECK_THROWS(read(changed(characters, "\"byte_fallback\": true", "\"byte_fallback\": false")), FatalError,
               "'byte_fallback'");
  CHECK_THROWS(read(changed(characters, "<0xC3>", "<0xc3>")), FatalError,
               "'<0xC3>' is missing; byte_fallback needs it");
  CHECK_THROWS(parse_tokenizer_json("[]"), FatalError, "not an object");
  CHECK_THROWS(parse_tokenizer_json("{}"), FatalError, "'version'");
  CHECK_THROWS(Tokenizer::load("no/such/tokenizer.json"), FatalError, "no/such/tokenizer.json: cannot be read");
}

void what_changes_no_ids_is_accepted() {
  const std::string template_processing = R"({"type": "TemplateProcessing", "single": [], "special_tokens": {}})";
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"\"trim_offsets\": false", "\"trim_offsets\": true"},
      {", \"trim_offsets\": false", ""},
      {"\"Isolated\", \"invert\": false", "\"Removed\", \"invert\": true"},
      {"\"decoder\": {\"type\": \"ByteLevel\"}", "\"decoder\": null"},
      {"\"post_processor\": null", "\"post_processor\": {\"type\": \"ByteLevel\", \"add_prefix_space\": true}"},
      {"\"post_processor\": null", "\"post_processor\": " + template_processing},
      {"\"post_processor\": null",
       "\"post_processor\": " + form::sequence("processors", form::byte_level("true"), template_processing)},
      {"\"type\": \"BPE\", ", ""},
      {"\"dropout\": null", "\"dropout\": 0.0"},
      {"\"unk_token\": null", "\"unk_token\": \"<|end|>\""},
      {"\"fuse_unk\": false", "\"fuse_unk\": true"},
      {"\"byte_fallback\": false", "\"byte_fallback\": true"},
      {"\"continuing_subword_prefix\": \"\"", "\"continuing_subword_prefix\": null"},
      {"[\"h\", \"e\"]", "\"h e\""}};
  for (const auto& [place, replacement] : cases) {
    CHECK_EQUAL(read(changed(small_tokenizer_json(), place, replacement)).encode("hello"), Ids{kHello});
  }
  // A character of one byte needs no token for the byte, which Gemma's older files lack.
  const std::string tab = changed(small_character_tokenizer_json(form::kSpaces, form::kNone), "<0x09>", "\\t");
  CHECK_EQUAL(read(tab).encode("\ta"), (Ids{9, kA}));
}

void words_of_the_vocabulary_can_come_before_merges() {
  const auto ignoring_merges = [](const std::string& json) {
    return read(changed(json, "\"ignore_merges\": false", "\"ignore_merges\": true"));
  };
  const Tokenizer tokenizer = ignoring_merges(small_tokenizer_json());
  for (int times = 0; times < 2; ++times) {
    CHECK_EQUAL(tokenizer.encode("abc"), Ids{kAbc});
    CHECK_EQUAL(tokenizer.encode("abcd hello"), (Ids{'a', kBc, 'd', kSpaceHello}));
  }
  CHECK_EQUAL(small_tokenizer().encode("abc"), (Ids{'a', kBc}));
  // Here the word is all of the text.
  const Tokenizer gemma = ignoring_merges(small_character_tokenizer_json(form::kSpaces, form::kNone));
  CHECK_EQUAL(gemma.encode("> b"), Ids{kGreaterMarkB});
}

void threads_get_the_same_ids() {
  const Tokenizer tokenizer = small_tokenizer();
  std::string text;
  for (int word = 0; word < 20'000; ++word) text += " hello abc" + std::to_string(word);
  const Ids expected = tokenizer.encode(text);
  std::vector<Ids> found(3);
  std::vector<std::thread> threads;
  for (Ids& ids : found) threads.emplace_back([&] { ids = tokenizer.encode(text); });
  for (std::thread& thread : threads) thread.join();
  for (const Ids& ids : found) CHECK(ids == expected);
}

void time_grows_with_the_text_and_not_its_square() {
  const std::vector<std::string> files = {
      small_tokenizer_json(),
      small_tokenizer_json(form::kNone, form::kDigits),
      small_tokenizer_json(form::kNone, form::split_by(kO200kPattern)),
      small_character_tokenizer_json(form::kStartAndSpaces, form::kNone)};
  for (const std::string& json : files) {
    const Tokenizer tokenizer = read(changed(json, "\"lstrip\": false", "\"lstrip\": true"));
    for (const std::string piece : {"a", "ab", " ", "\n ", "'", "<|end", "=", "\u0301", "e\u0323\u0302", "\u1112\u1161",
                                    "A", "\u0301A", "1", " >", "▁", "<|end|>", "  <|end|>"}) {
      std::string text;
      while (text.size() < 400'000) text += piece;
      const auto start = std::chrono::steady_clock::now();
      CHECK(!tokenizer.encode(text).empty());
      // A tenth of a second, or one under the sanitizers; steps by the square of 400,000 would take minutes.
      CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds(15));
    }
  }
}

}  // namespace

int main() {
  invalid_utf8_is_found_at_its_byte();
  merges_come_in_rank_order();
  characters_fall_back_to_bytes();
  bytes_without_a_token_are_left_out();
  a_mark_begins_the_text_or_every_piece();
  added_tokens_are_found_inside_text();
  added_tokens_take_white_space();
  what_would_give_other_ids_is_refused();
  what_changes_no_ids_is_accepted();
  words_of_the_vocabulary_can_come_before_merges();
  threads_get_the_same_ids();
  time_grows_with_the_text_and_not_its_square();
}
