// Every form of a row, and every way in which one is broken.

#include <ctime>
#include <map>

#include "check.h"
#include "errors.h"
#include "json.h"

namespace {

Question parse(const std::string& line) { return JsonRow(line).question(); }

using Texts = std::vector<std::string>;

using Fields = std::map<std::string, std::string>;

void forms() {
  const Question lexglue = parse(
      R"({"id": "t-1", "context": "c", "endings": ["a", "b", "d"], "label": 2, "court": "9th Cir.", "year": 1999})");
  CHECK(lexglue.fields == (Fields{{"context", "c"}, {"court", "9th Cir."}}));
  CHECK_EQUAL(lexglue.endings, (Texts{"a", "b", "d"}));
  CHECK_EQUAL(lexglue.label.value(), 2);

  const Question casehold = parse(
      R"({"citing_prompt": "c", "holding_1": "b", "holding_0": "a", "holding_2": "d", "holding_x": "e", "label": "1"})");
  CHECK(casehold.fields == (Fields{{"context", "c"}, {"holding_x", "e"}}));
  CHECK_EQUAL(casehold.endings, (Texts{"a", "b", "d"}));
  CHECK_EQUAL(casehold.label.value(), 1);

  const std::string mmlu = R"({"question": "q", "choices": ["a", "b"], "subject": "law")";
  CHECK(!parse(mmlu + "}").label);
  CHECK(!parse(mmlu + ", \"answer\": null}").label);
  for (const char* answer : {"1", "\"B\"", "\"1\""}) {
    CHECK_EQUAL(parse(mmlu + ", \"answer\": " + answer + "}").label.value(), 1);
  }
  CHECK(parse(mmlu + "}").fields == (Fields{{"question", "q"}, {"subject", "law"}}));

  const Question graded = parse(R"({"prompt": "p", "responses": ["a", "b", "c"], "scores": [1, 2.5, 2.5]})");
  CHECK(graded.fields == (Fields{{"prompt", "p"}}));
  CHECK_EQUAL(graded.label.value(), 1);
  CHECK(!parse(R"({"prompt": "p", "responses": ["a", "b"]})").label);
  for (const char* score : {"\"2\"", "\" +2e0\\n\"", "\"1_0.5\"", "\"1E-400\"", "1e-400", "18446744073709551615"}) {
    const std::string line = R"({"prompt": "p", "responses": ["a", "b"], "scores": [-1, )" + std::string(score) + "]}";
    CHECK_EQUAL(parse(line).label.value(), 1);
  }
  for (const char* label : {"0", "-0", "\"0\"", "\"-0\"", "\"000\""}) {
    const std::string line = R"({"context": "c", "endings": ["a", "b"], "label": )" + std::string(label) + "}";
    CHECK_EQUAL(parse(line).label.value(), 0);
  }

  const Question pair = parse(R"({"prompt": "p", "chosen": "a", "rejected": "b", "source": "s"})");
  CHECK(pair.fields == (Fields{{"prompt", "p"}, {"source", "s"}}));
  CHECK_EQUAL(pair.endings, (Texts{"b", "a"}));
  CHECK_EQUAL(pair.label.value(), 1);
  CHECK_EQUAL(parse(R"({"prompt": "p", "chosen": "a", "rejected": ["b", "c"]})").endings, (Texts{"b", "c", "a"}));
  const auto said = [](const char* role, const char* content) {
    return R"({"role": ")" + std::string(role) + R"(", "content": ")" + content + R"("})";
  };
  const std::string asked = said("user", "p"), good = said("assistant", "a"), bad = said("assistant", "b");
  const std::string whole = R"(, "chosen": [)" + asked + ", " + good + R"(], "rejected": [)" + asked + ", " + bad + "]}";
  for (const std::string& prompt : {std::string("\"p\""), "[" + asked + "]"}) {  // both answers repeat it
    const Question messages = parse("{\"prompt\": " + prompt + whole);
    CHECK(messages.fields == (Fields{{"prompt", "p"}}));
    CHECK_EQUAL(messages.endings, (Texts{"b", "a"}));
  }
  const Question turns = parse("{\"prompt\": [" + said("system", "s") + ", " + asked + R"(], "chosen": [)" + good +
                               R"(], "rejected": [[)" + bad + ", " + asked + "], \"c\"]}");
  CHECK(turns.fields == (Fields{{"prompt", "system: s\nuser: p"}}));
  CHECK_EQUAL(turns.endings, (Texts{"assistant: b\nuser: p", "c", "a"}));

  // Columns of two forms: the one that is complete.
  CHECK_EQUAL(parse(R"({"context": "c", "endings": ["a", "b"], "question": "q", "choices": ["d", "e"], "answer": 0})")
                  .endings, (Texts{"d", "e"}));
}

void ids() {
  const std::string rest = R"("context": "c", "endings": ["a", "b"]})";
  CHECK_EQUAL(JsonRow("{\"id\": \"a\\\"\\u00e9\", " + rest).id().value(), "a\"\u00e9");
  CHECK_EQUAL(JsonRow("{\"id\": -3, " + rest).id().value(), "-3");
  CHECK(!JsonRow("{" + rest).id());
  CHECK(!JsonRow("{\"id\": null, " + rest).id());
  for (const char* id : {"1.5", "[]", "true", "\"\""}) {
    CHECK_THROWS(JsonRow("{\"id\": " + std::string(id) + ", " + rest).id(), RowError, "field 'id'");
  }
}

void text_is_unicode() {
  CHECK_EQUAL(JsonRow(R"({"text": "\ud83d\ude00 \u0000"})").text("text"), std::string("\U0001F600 \0", 6));
  for (const char* broken : {R"({"text": "\ud83d"})", R"({"text": "\ude00\ud83d"})", "{\"text\": \"\xff\"}",
                             "{\"text\": \"\xed\xa0\x80\"}", "{\"text\": \"\xc0\x80\"}", "{\"text\": \"\xf4\x90\x80\x80\"}"}) {
    CHECK_THROWS(JsonRow(broken), RowError, "broken JSON or not UTF-8");
  }
  CHECK_THROWS(JsonRow("{}").text("text"), RowError, "field 'text': is missing");
  CHECK_THROWS(JsonRow(R"({"text": 1})").text("text"), RowError, "field 'text': is not a string");
  CHECK_EQUAL(json_quote("a\"\n\xff"), "\"a\\\"\\n\ufffd\"");
}

void broken_rows() {
  for (const char* broken : {"", "{", "{\"context\": \"c\"", "nonsense", "{\"a\": 1} {\"b\": 2}", "{\"a\": 1e999}"}) {
    CHECK_THROWS(JsonRow(broken), RowError, "broken JSON");
  }
  CHECK_THROWS(JsonRow(std::string_view("{}\0", 3)), RowError, "at byte 3");
  CHECK_THROWS(JsonRow("\xEF\xBB\xBF{}"), RowError, "at byte 1");
  const auto nested = [](size_t depth) {
    return "{\"a\": " + std::string(depth, '[') + "\"\\\"[{\"" + std::string(depth, ']') + R"(, "text": "]"})";
  };
  CHECK_EQUAL(JsonRow(nested(31)).text("text"), "]");
  CHECK_THROWS(JsonRow(nested(32)), RowError, "nested deeper than 32");
  CHECK_THROWS(JsonRow(std::string(100000, '[')), RowError, "nested deeper");
  CHECK_THROWS(JsonRow("[1]"), RowError, "not a JSON object");
  CHECK_THROWS(parse("{}"), RowError, "of no known form");
  CHECK_THROWS(parse(R"({"prompt": "p", "response": "a", "score": 1})"), RowError, "field 'responses': is missing");
  CHECK_THROWS(parse(R"({"endings": ["a", "b"]})"), RowError, "field 'context': is missing");
  CHECK_THROWS(parse(R"({"context": null, "endings": ["a", "b"]})"), RowError, "field 'context': is not a string");
  CHECK_THROWS(parse(R"({"context": "c", "endings": "ab"})"), RowError, "field 'endings': is not a list");
  CHECK_THROWS(parse(R"({"context": "c", "endings": ["a", 1]})"), RowError, "field 'endings': candidate 1 is not a string");
  CHECK_THROWS(parse(R"({"context": "c", "endings": ["a"]})"), RowError, "field 'endings': 1 candidates");
  CHECK_THROWS(parse(R"({"citing_prompt": "c", "holding_0": "a", "holding_2": "b"})"), RowError, "field 'holding_1': is missing");
  CHECK_THROWS(parse(R"({"choices": ["a", "b"]})"), RowError, "field 'question': is missing");
  CHECK_THROWS(parse(R"({"responses": ["a", "b"]})"), RowError, "field 'prompt': is missing");
  CHECK_THROWS(parse(R"({"chosen": "a", "rejected": "b"})"), RowError, "field 'prompt': is missing; chosen and rejected begin");
  CHECK_THROWS(parse(R"({"prompt": "p", "chosen": "a"})"), RowError, "field 'rejected': is missing");
  CHECK_THROWS(parse(R"({"prompt": "p", "rejected": "a"})"), RowError, "field 'chosen': is missing");
  CHECK_THROWS(parse(R"({"prompt": "p", "chosen": "a", "rejected": []})"), RowError, "field 'rejected': is an empty list");
  for (const char* column : {"prompt", "chosen", "rejected"}) {
    for (const char* value : {"null", "1", "{}", "[1]", "[[]]", "[{}]", "[\"a\", {}]", "[{\"role\": \"user\"}]", "[{\"content\": \"c\"}]",
                              "[{\"role\": 1, \"content\": \"c\"}]", "[{\"role\": \"user\", \"content\": null}]"}) {
      Fields row{{"prompt", "\"p\""}, {"chosen", "\"a\""}, {"rejected", "\"b\""}};
      row[column] = value;
      const std::string line = "{\"prompt\": " + row["prompt"] + ", \"chosen\": " + row["chosen"] + ", \"rejected\": " + row["rejected"] + "}";
      CHECK_THROWS(parse(line), RowError, ("field '" + std::string(column) + "': ").c_str());
    }
  }
  for (const char* label : {"2", "-1", "99999999999999999999", "18446744073709551615", "1.0", "true", "\"A\"", "\"2\"", "\"-1\"", "[0]"}) {
    const std::string line = R"({"context": "c", "endings": ["a", "b"], "label": )" + std::string(label) + "}";
    CHECK_THROWS(parse(line), RowError, "field 'label'");
  }
  for (const char* answer : {"2", "\"C\"", "\"a\"", "\"\"", "\"AB\""}) {
    const std::string line = R"({"question": "q", "choices": ["a", "b"], "answer": )" + std::string(answer) + "}";
    CHECK_THROWS(parse(line), RowError, "field 'answer'");
  }
  for (const char* scores : {"1", "[1]", "[1, \"\"]", "[1, 2, 3]", "[1, true]", "[1, null]", "[1, \"nan\"]", "[1, \"1e999\"]", "[1, \"0x2\"]",
                             "[1, \"2_\"]", "[1, \"_2\"]", "[1, \"2 3\"]", "{\"a\": 1, \"b\": 2}"}) {
    const std::string line = R"({"prompt": "p", "responses": ["a", "b"], "scores": )" + std::string(scores) + "}";
    CHECK_THROWS(parse(line), RowError, "field 'scores'");
  }
}

/// Processor seconds that the line takes, as a row or as an error.
double seconds_for(const std::string& line) {
  const std::clock_t begin = std::clock();
  try {
    parse(line);
  } catch (const RowError&) {
  }
  return static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC;
}

std::string repeated(const std::string& part, size_t bytes) {
  std::string text;
  while (text.size() < bytes) text += part;
  return text;
}

void a_line_takes_time_by_its_length() {
  constexpr size_t kSize = 1 << 20;
  const std::string row = R"({"context": "c", "endings": ["a", "b"], "notes": )", deep(kSize / 2, '[');
  for (const char* part : {"{},", "[],", "0,", "\"\",", "{\"a\":{\"b\":{}}},", "[[[[{}]]]],", "null,", "1e5,"}) {
    CHECK(seconds_for(row + "[" + repeated(part, kSize) + "0]}") < 3);
    CHECK(seconds_for(row + "[" + repeated(part, kSize)) < 3);
    CHECK(seconds_for(row + "{" + repeated("\"same\":" + std::string(part), kSize) + "\"a\":0}}") < 3);
  }
  CHECK(seconds_for(row + "\"" + repeated("\\\"{[", kSize) + "\"}") < 3);
  CHECK(seconds_for(row + repeated("7", kSize) + "}") < 3);
  CHECK(seconds_for(row + deep + "}") < 3);
  std::string names = "{";
  for (size_t i = 0; names.size() < kSize; ++i) names += "\"holding_" + std::to_string(i) + "\": \"h\", ";
  CHECK(seconds_for(names + "\"citing_prompt\": \"c\"}") < 3);
}

}  // namespace

int main() {
  forms();
  ids();
  text_is_unicode();
  broken_rows();
  a_line_takes_time_by_its_length();
}
