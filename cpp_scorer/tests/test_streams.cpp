// What lies between the files and the session: the queue, the lines that come in, the file that goes out.

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

#include "bounded_queue.h"
#include "check.h"
#include "errors.h"
#include "line_reader.h"
#include "output_file.h"

namespace fs = std::filesystem;

namespace {

void queue_keeps_order_and_bound() {
  BoundedQueue<int> queue(3);
  std::thread producer([&] {
    for (int i = 0; i < 10000; ++i) queue.push(i);
    queue.close();
  });
  int expected = 0;
  while (const auto item = queue.pop()) CHECK_EQUAL(*item, expected++);
  CHECK_EQUAL(expected, 10000);
  producer.join();
}

void queue_gives_what_lies_ready() {
  BoundedQueue<int> queue(3);
  CHECK(!queue.pop_if([](int) { return true; }));
  queue.push(1);
  CHECK(!queue.pop_if([](int item) { return item == 2; }));
  CHECK_EQUAL(queue.pop_if([](int item) { return item == 1; }).value(), 1);
}

void queue_passes_a_failure_on_after_the_items() {
  BoundedQueue<int> queue(3);
  queue.push(1);
  queue.close(std::make_exception_ptr(FatalError("broken")));
  CHECK(!queue.push(2));
  CHECK_EQUAL(queue.pop().value(), 1);
  CHECK_THROWS(queue.pop(), FatalError, "broken");
}

void closing_a_full_queue_frees_its_producer() {
  BoundedQueue<int> queue(1);
  queue.push(1);
  std::thread producer([&] { CHECK(!queue.push(2)); });
  queue.close();
  producer.join();
}

std::string write_file(const fs::path& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
  return path;
}

void lines_keep_their_numbers(const fs::path& folder) {
  LineReader reader(write_file(folder / "lines", "\xEF\xBB\xBF" "a\n\n  \t\r\nb\r\n\nlast"));
  std::vector<std::string> seen;
  while (const auto line = reader.next()) seen.push_back(std::to_string(line->number) + line->text);
  CHECK_EQUAL(seen, (std::vector<std::string>{"1a", "4b\r", "6last"}));
  CHECK(!LineReader(write_file(folder / "empty", "")).next());
  CHECK(!LineReader(write_file(folder / "mark", "\xEF\xBB\xBF\n")).next());
  CHECK(!LineReader(write_file(folder / "blank", "\n \n ")).next());
}

void lines_of_any_length_up_to_the_limit(const fs::path& folder) {
  const std::string longest(LineReader::kLongestLine, 'x');
  for (const std::string& end : {std::string("\n"), std::string()}) {
    LineReader reader(write_file(folder / "long", longest + "\n" + longest + longest + "\nshort\n" + longest + longest + end));
    const auto first = reader.next(), second = reader.next(), third = reader.next(), fourth = reader.next();
    CHECK(!first->too_long && first->text == longest);
    CHECK(second->too_long && second->text.empty());
    CHECK(!third->too_long && third->text == "short" && third->number == 3);
    CHECK(fourth->too_long && fourth->number == 4);
    CHECK(!reader.next());
  }
}

void reading_fails_with_a_name(const fs::path& folder) {
  CHECK_THROWS(LineReader((folder / "missing").string()), FatalError, "missing: cannot be opened");
  CHECK_THROWS(LineReader(folder.string()).next(), FatalError, "cannot be read");
}

void a_line_counts_before_the_next_one_comes(const fs::path& folder) {
  const fs::path fifo = folder / "fifo";
  CHECK_EQUAL(std::system(("mkfifo " + fifo.string()).c_str()), 0);
  std::ofstream writer;
  std::thread opener([&] { writer.open(fifo); });
  LineReader reader(fifo);
  opener.join();
  writer << "one\ntw" << std::flush;
  CHECK_EQUAL(reader.next()->text, "one");
  // The reader now waits for the rest of the line; stop() must free it.
  std::thread waiting([&] { CHECK(!reader.next()); });
  reader.stop();
  waiting.join();
}

std::string read_file(const fs::path& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

void output_appears_by_commit_alone(const fs::path& folder) {
  const fs::path path = folder / "out";
  write_file(path, "old");
  { OutputFile(path).write("new"); }
  CHECK_EQUAL(read_file(path), "old");
  OutputFile file(path);
  file.write("new");
  CHECK_EQUAL(read_file(path), "old");
  file.commit();
  CHECK_EQUAL(read_file(path), "new");
  CHECK_EQUAL(std::distance(fs::directory_iterator(folder), {}), 1);
}

void output_through_a_link_keeps_the_link(const fs::path& folder) {
  fs::create_symlink(folder / "out", folder / "link");
  OutputFile file((folder / "link").string());
  file.write("through");
  file.commit();
  CHECK(fs::is_symlink(folder / "link"));
  CHECK_EQUAL(read_file(folder / "out"), "through");
}

void writing_fails_with_a_name() {
  CHECK_THROWS(OutputFile("/dev/full").write("x"), FatalError, "/dev/full: cannot be written (No space left on device)");
  CHECK_THROWS(OutputFile("/no/such/folder/out"), FatalError, "/no/such/folder/out: cannot be opened");
}

}  // namespace

int main() {
  const std::string pattern = (fs::temp_directory_path() / "streamsXXXXXX").string();
  std::vector<char> name(pattern.c_str(), pattern.c_str() + pattern.size() + 1);
  const fs::path folder = mkdtemp(name.data());
  queue_keeps_order_and_bound();
  queue_gives_what_lies_ready();
  queue_passes_a_failure_on_after_the_items();
  closing_a_full_queue_frees_its_producer();
  fs::create_directory(folder / "in"), fs::create_directory(folder / "out");
  lines_keep_their_numbers(folder / "in");
  lines_of_any_length_up_to_the_limit(folder / "in");
  reading_fails_with_a_name(folder / "in");
  a_line_counts_before_the_next_one_comes(folder / "in");
  output_appears_by_commit_alone(folder / "out");
  output_through_a_link_keeps_the_link(folder / "out");
  writing_fails_with_a_name();
  fs::remove_all(folder);
}
