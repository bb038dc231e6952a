// The prompt contract of lib/questions/prompt.py, with a tokenizer of one token a byte: what is cut is seen in the text.

#include <string>

#include "check.h"
#include "errors.h"
#include "prompt.h"

namespace {

std::vector<int64_t> bytes(std::string_view text) { return {text.begin(), text.end()}; }

std::string text(const std::vector<int64_t>& ids) { return {ids.begin(), ids.end()}; }

constexpr int64_t kEnd = 7;

PromptEncoder encoder(const std::string& template_text, int64_t max_length = 1000, int64_t end_token_id = kEnd) {
  return PromptEncoder({template_text, max_length, end_token_id}, bytes);
}

Question question(const std::string& context, std::vector<std::string> endings = {"a", "b"}) {
  return {{{"context", context}, {"court", "2d Cir."}}, std::move(endings), {}};
}

std::string prompt(const std::string& template_text, const std::string& context) {
  return text(encoder(template_text).encode(question(context)).prompt_ids);
}

void fields_are_replaced_once() {
  CHECK_EQUAL(prompt("{context}", "x"), "x");
  CHECK_EQUAL(prompt("In {court}: {context} Holding:", "x"), "In 2d Cir.: x Holding:");
  CHECK_EQUAL(prompt("{context}, {court}, {context}", "{court} {context}"), "{court} {context}, 2d Cir., {court} {context}");
  CHECK_EQUAL(prompt("{ {{context}} {} {not-a-field} {context", "x"), "{ {x} {} {not-a-field} {context");
  // As Python's \w: letters and numbers of any script, but neither signs nor combining marks.
  CHECK_EQUAL(prompt("{context} {\u00a7} {e\u0301} {\u2028}", "x"), "x {\u00a7} {e\u0301} {\u2028}");
  CHECK_THROWS(encoder("{context} {\u5e74}").encode(question("x")), RowError, "field '\u5e74' is missing");
  CHECK_THROWS(encoder("{context} {\u0663_\u00b2}").encode(question("x")), RowError, "field '\u0663_\u00b2' is");
  CHECK_THROWS(encoder("{context} {\xe9}"), FatalError, "template is not UTF-8");
  CHECK_THROWS(encoder("{context} {ann\u00e9e}").encode(question("x")), RowError, "field 'ann\u00e9e' is missing");
  CHECK_THROWS(encoder("{context} {year}").encode(question("x")), RowError, "field 'year' is missing");
  CHECK_THROWS(encoder("{question}").encode(question("x")), RowError, "field 'question' is missing");
  CHECK_THROWS(encoder("{court}"), FatalError, "holds none of {context}, {question} and {prompt}");
}

void white_space_is_stripped_where_the_contract_says() {
  CHECK_EQUAL(prompt("{context}", " \n x y\t\n\v\f\r "), " \n x y");
  CHECK_EQUAL(prompt("{context}\n ", "x \t"), "x");
  CHECK_EQUAL(prompt("{context}\nA: ", "x \t"), "x \t\nA:");
  CHECK_EQUAL(prompt("Case: {context} ", " "), "Case:");
  CHECK_EQUAL(prompt("{context}", "x\u00a0"), "x\u00a0");
  CHECK_EQUAL(prompt("{context}", "x\u2003"), "x\u2003");

  const EncodedQuestion encoded = encoder("{context}").encode(question("x", {"\t a b \r\n", "\u00a0c\u00a0", "", " \v\f"}));
  CHECK_EQUAL(text(encoded.ending_ids[0]), " a b\x07");
  CHECK_EQUAL(text(encoded.ending_ids[1]), " \u00a0c\u00a0\x07");
  CHECK_EQUAL(text(encoded.ending_ids[2]), " \x07");
  CHECK_EQUAL(text(encoded.ending_ids[3]), " \x07");
  CHECK_EQUAL(encoded.ending_bytes, (std::vector<int64_t>{3, 5, 1, 1}));
}

void endings_are_closed_unless_switched_off() {
  const EncodedQuestion open = encoder("{context}", 1000, -1).encode(question("x", {"a", "a b"}));
  CHECK_EQUAL(text(open.ending_ids[0]), " a");
  CHECK_EQUAL(text(open.ending_ids[1]), " a b");
}

void only_the_left_of_the_context_is_cut() {
  // " abcd" and the end token are 6, "In: " and " =" are 6 more: 4 of the context's 8 fit into 16.
  const Question long_one = question("01234567", {"a", "abcd"});
  for (const int64_t max_length : {20, 25}) {
    const EncodedQuestion whole = encoder("In: {context} =\n", max_length).encode(long_one);
    CHECK_EQUAL(text(whole.prompt_ids), "In: 01234567 =");
    CHECK_EQUAL(whole.truncated, 0);
  }
  const EncodedQuestion cut = encoder("In: {context} =\n", 16).encode(long_one);
  CHECK_EQUAL(text(cut.prompt_ids), "In: 4567 =");
  CHECK_EQUAL(cut.truncated, 4);
  CHECK_EQUAL(text(cut.ending_ids[1]), " abcd\x07");
  const EncodedQuestion nothing_left = encoder("In: {context} =\n", 12).encode(long_one);
  CHECK_EQUAL(text(nothing_left.prompt_ids), "In:  =");
  CHECK_EQUAL(nothing_left.truncated, 8);
  CHECK_THROWS(encoder("In: {context} =\n", 11).encode(long_one), RowError, "need 12 tokens, over the model's max length of 11");
}

void a_cut_that_costs_tokens_at_its_seams_is_counted_right() {
  // One token a word with its spaces: whole, "In:" and the context's first word are one token; apart, they are two.
  const auto words = [](std::string_view text) {
    std::vector<int64_t> ids;
    for (size_t i = 0; i < text.size(); ++i) {
      if (i == 0 || text[i] == ' ') ids.push_back(text[text.find_first_not_of(' ', i)]);
    }
    return ids;
  };
  const PromptEncoder encoder({"In:{context} =", 4, -1}, words);
  const EncodedQuestion encoded = encoder.encode(question("a b c", {"x", "y"}));
  // whole: In:a b c = is 4 tokens and an ending 1; apart: In: + a b c + = is 5, so 2 of the context are cut.
  CHECK_EQUAL(encoded.truncated, 2);
  CHECK_EQUAL(text(encoded.prompt_ids), "Ic=");
}

void an_empty_prompt_is_an_error() {
  CHECK_THROWS(encoder("{context}").encode(question(" \n")), RowError, "the prompt is empty");
  CHECK_THROWS(encoder("{context}", 3).encode(question("0123")), RowError, "leaves nothing of the prompt");
}

void a_long_ending_is_cut_on_its_right() {
  const auto encode = [](const std::string& context, const std::string& ending, int64_t max_length, int64_t max_ending) {
    return PromptEncoder({"In: {context}", max_length, kEnd, max_ending}, bytes).encode(question(context, {"a", ending}));
  };
  const EncodedQuestion whole = encode("x", "abcd", 100, 6), cut = encode("x", "abcd", 100, 4);
  CHECK_EQUAL(text(whole.ending_ids[1]), " abcd\x07");
  CHECK(whole.endings_truncated.empty());
  CHECK_EQUAL(text(cut.ending_ids[1]), " abc");
  CHECK_EQUAL(text(cut.ending_ids[0]), " a\x07");
  CHECK_EQUAL(cut.endings_truncated, (std::vector<int64_t>{0, 2}));
  CHECK_EQUAL(cut.ending_bytes[1], 4);

  // The context keeps 64 tokens, or all that it has, or half of what the template leaves.
  const EncodedQuestion kept = encode(std::string(100, 'x'), std::string(200, 'y'), 204, 190);
  CHECK_EQUAL(text(kept.prompt_ids), "In: " + std::string(64, 'x'));
  CHECK_EQUAL(kept.ending_ids[1].size(), size_t{136});
  CHECK_EQUAL(encode("xy", std::string(300, 'y'), 204, 203).ending_ids[1].size(), size_t{198});
  CHECK_EQUAL(encode(std::string(100, 'x'), std::string(200, 'y'), 54, 50).ending_ids[1].size(), size_t{25});
  CHECK_THROWS(encode("x", "abcd", 4, 2), RowError, "endings and template need 5 tokens");
}

void a_start_token_opens_every_prompt() {
  constexpr int64_t kStart = 2;
  const PromptEncoder encoder({"{context}", 8, kEnd, -1, kStart}, bytes);
  CHECK_EQUAL(text(encoder.encode(question("012")).prompt_ids), "\x02" "012");
  CHECK_EQUAL(text(encoder.encode(question("01234567")).prompt_ids), "\x02" "4567");
  CHECK_EQUAL(text(encoder.neutral_prompt_ids()), "\x02" "Answer:");
}

}  // namespace

int main() {
  fields_are_replaced_once();
  white_space_is_stripped_where_the_contract_says();
  endings_are_closed_unless_switched_off();
  only_the_left_of_the_context_is_cut();
  a_cut_that_costs_tokens_at_its_seams_is_counted_right();
  an_empty_prompt_is_an_error();
  a_long_ending_is_cut_on_its_right();
  a_start_token_opens_every_prompt();
}
