// What lies between the files and the session: the queue, the lines that come in, what is made of them.

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <new>
#include <thread>

#include "bounded_queue.h"
#include "check.h"
#include "errors.h"
#include "line_reader.h"
#include "prefetcher.h"

namespace fs = std::filesystem;

namespace {

std::atomic<int> steal_from = -1;  // a descriptor from which the next poll takes a byte that it saw

}  // namespace

/// Stands in for the C library's.
extern "C" int poll(pollfd* waiting, nfds_t count, int) {
  const int ready = static_cast<int>(syscall(SYS_ppoll, waiting, count, nullptr, nullptr, 0));
  char byte;
  if (steal_from >= 0) CHECK_EQUAL(read(steal_from, &byte, 1), 1), steal_from = -1;
  return ready;
}

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

LineReader reader_of(const fs::path& path, size_t longest_line = 1000) { return LineReader(path, longest_line); }

void lines_keep_their_numbers(const fs::path& folder) {
  LineReader reader = reader_of(write_file(folder / "lines", "\xEF\xBB\xBF" "a\n\n  \t\r\nb\r\n\nlast"));
  std::vector<std::string> seen;
  while (const auto line = reader.next()) seen.push_back(std::to_string(line->number) + line->text);
  CHECK_EQUAL(seen, (std::vector<std::string>{"1a", "4b\r", "6last"}));
  CHECK(!reader_of(write_file(folder / "empty", "")).next());
  CHECK(!reader_of(write_file(folder / "mark", "\xEF\xBB\xBF\n")).next());
  CHECK(!reader_of(write_file(folder / "blank", "\n \n ")).next());
}

void lines_of_any_length_up_to_the_limit(const fs::path& folder) {
  // Of less than one read, whose line feed is seen at once, and of many.
  for (const size_t limit : {size_t{10}, size_t{1} << 20}) {
    const std::string longest(limit, 'x'), text = longest + "\n" + longest + "x\nshort\n" + longest + longest;
    for (const std::string& end : {std::string("\n"), std::string()}) {
      LineReader reader = reader_of(write_file(folder / "long", text + end), limit);
      const auto first = reader.next(), second = reader.next(), third = reader.next(), fourth = reader.next();
      CHECK(first->error.empty() && first->text == longest);
      CHECK_EQUAL(second->error, "the line is longer than " + std::to_string(limit) + " bytes (--max-line-bytes)");
      CHECK(second->text.empty());
      CHECK(third->error.empty() && third->text == "short" && third->number == 3);
      CHECK(!fourth->error.empty() && fourth->number == 4);
      CHECK(!reader.next());
    }
  }
}

void reading_fails_with_a_name(const fs::path& folder) {
  CHECK_THROWS(reader_of(folder / "missing"), FatalError, "missing: cannot be opened");
  CHECK_THROWS(reader_of(folder).next(), FatalError, "cannot be read");
}

void a_line_counts_before_the_next_one_comes(const fs::path& folder) {
  const fs::path fifo = folder / "fifo";
  CHECK_EQUAL(mkfifo(fifo.c_str(), 0600), 0);
  std::ofstream writer;
  std::thread opener([&] { writer.open(fifo); });
  LineReader reader = reader_of(fifo);
  opener.join();
  writer << "one\ntw" << std::flush;
  CHECK_EQUAL(reader.next()->text, "one");
  // The reader now waits for the rest of the line; stop() must free it.
  std::thread waiting([&] { CHECK(!reader.next()); });
  reader.stop();
  waiting.join();
}

/// `thief` is at the same pipe as the input at `path`, in which there lies a byte.
void stop_frees_a_reader_whose_byte_was_stolen(const std::string& path, int thief) {
  LineReader reader = reader_of(path);
  steal_from = thief;
  std::thread waiting([&] { CHECK(!reader.next()); });
  while (steal_from >= 0) std::this_thread::yield();
  reader.stop();
  waiting.join();
}

void stop_frees_a_reader_that_shares_its_input(const fs::path& folder) {
  const fs::path fifo = folder / "shared";
  CHECK_EQUAL(mkfifo(fifo.c_str(), 0600), 0);
  const FileDescriptor both_ends(open(fifo.c_str(), O_RDWR));
  CHECK_EQUAL(write(both_ends.get(), "x", 1), 1);
  stop_frees_a_reader_whose_byte_was_stolen(fifo, both_ends.get());

  int ends[2];
  CHECK_EQUAL(pipe(ends), 0);
  const FileDescriptor from(ends[0]), to(ends[1]);
  CHECK_EQUAL(dup2(ends[0], STDIN_FILENO), STDIN_FILENO);
  CHECK_EQUAL(write(to.get(), "x", 1), 1);
  stop_frees_a_reader_whose_byte_was_stolen("-", from.get());
  CHECK_EQUAL(fcntl(STDIN_FILENO, F_GETFL) & O_NONBLOCK, 0);
}

void a_row_without_memory_is_an_error_and_the_next_is_read(const fs::path& folder) {
  const auto encode = [](std::string_view text) {
    if (text.find("large") != text.npos) throw std::bad_alloc();
    return std::vector<int64_t>(text.begin(), text.end());
  };
  const PromptEncoder encoder({"{context}", 100, -1}, encode);
  LineReader reader = reader_of(write_file(folder / "rows", R"({"context": "c", "endings": ["a", "large"], "id": "x"}
{"context": "c", "endings": ["a", "b"]})"));
  Prefetcher prefetcher(reader, encoder, {100, 100});
  const auto first = prefetcher.next(), second = prefetcher.next();
  CHECK_EQUAL(first->id + " " + first->error, "x out of memory");
  CHECK_EQUAL(second->id + second->error, "1");
  CHECK_EQUAL(second->encoded.num_scored(), 4);
  CHECK(!prefetcher.next());
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
  lines_keep_their_numbers(folder);
  lines_of_any_length_up_to_the_limit(folder);
  reading_fails_with_a_name(folder);
  a_line_counts_before_the_next_one_comes(folder);
  stop_frees_a_reader_that_shares_its_input(folder);
  a_row_without_memory_is_an_error_and_the_next_is_read(folder);
  fs::remove_all(folder);
}
