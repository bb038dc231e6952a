// The file that goes out: it appears whole or not at all, and what was answered is not lost.

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "check.h"
#include "errors.h"
#include "file_descriptor.h"
#include "output_file.h"

namespace fs = std::filesystem;

namespace {

int rename_fails_with = 0;        // errno
std::vector<std::string> synced;  // what fsync was called for

}  // namespace

// These stand in for the C library's.

extern "C" int rename(const char* from, const char* to) noexcept {
  if (rename_fails_with == 0) return renameat(AT_FDCWD, from, AT_FDCWD, to);
  errno = rename_fails_with;
  return -1;
}

extern "C" int fsync(int file) {
  struct stat kind;
  fstat(file, &kind);
  synced.push_back(S_ISDIR(kind.st_mode) ? "folder" : "file");
  return static_cast<int>(syscall(SYS_fsync, file));
}

namespace {

std::string write_file(const fs::path& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
  return path;
}

std::string read_file(const fs::path& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  return names;
}

/// The only file in the folder whose name ends with .partial.
fs::path partial_in(const fs::path& folder) {
  fs::path found;
  for (const std::string& name : names_in(folder)) {
    if (fs::path(name).extension() != ".partial") continue;
    CHECK(found.empty());
    found = folder / name;
  }
  CHECK(!found.empty());
  return found;
}

using Names = std::vector<std::string>;

void output_appears_by_commit_alone(const fs::path& folder) {
  const fs::path path = folder / "out";
  write_file(path, "old");
  { OutputFile unused(path); }
  CHECK_EQUAL(names_in(folder), Names{"out"});
  OutputFile file(path);
  file.write("new\n");
  CHECK_EQUAL(read_file(path), "old");
  CHECK_EQUAL(read_file(partial_in(folder)), "new\n");
  file.commit();
  CHECK_EQUAL(read_file(path), "new\n");
  CHECK_EQUAL(names_in(folder), Names{"out"});
  CHECK_EQUAL(file.kept(), "");
  // The file and the folder that holds its name are on the disk.
  CHECK_EQUAL(synced, (Names{"file", "folder"}));
}

void no_lines_make_an_empty_file(const fs::path& folder) {
  write_file(folder / "out", "old");
  OutputFile(folder / "out").commit();
  CHECK_EQUAL(read_file(folder / "out"), "");
  CHECK_EQUAL(names_in(folder), Names{"out"});
}

void what_was_answered_stays_without_commit(const fs::path& folder) {
  const fs::path path = folder / "out";
  for (int run = 0; run < 3; ++run) OutputFile(path).write("one\n");  // each under a name of its own
  CHECK_EQUAL(names_in(folder).size(), size_t{3});
}

void a_target_that_cannot_be_replaced_is_written_over(const fs::path& folder) {
  const fs::path path = folder / "mounted", same = folder / "same";
  write_file(path, "old and longer than what is new\n");
  fs::create_hard_link(path, same);
  OutputFile file(path);
  file.write("new\n");
  rename_fails_with = EBUSY;
  file.commit();
  rename_fails_with = 0;
  CHECK_EQUAL(read_file(same), "new\n");
  CHECK_EQUAL(names_in(folder), (Names{"mounted", "same"}));
}

void a_target_that_became_a_folder_leaves_the_answers(const fs::path& folder) {
  const fs::path path = folder / "out";
  OutputFile file(path);
  file.write("answer\n");
  fs::create_directories(path / "inside");
  CHECK_THROWS(file.commit(), FatalError, "out: cannot be given its name (Is a directory)");
  CHECK_EQUAL(read_file(partial_in(folder)), "answer\n");
  CHECK_EQUAL(file.kept(), "; what was answered is in '" + partial_in(folder).string() + "'");
}

void output_through_a_link_keeps_the_link(const fs::path& folder) {
  write_file(folder / "out", "old");
  for (const char* target : {"out", "not-yet-there", "link-out"}) {
    const fs::path link = folder / ("link-" + std::string(target));
    fs::create_symlink(target, link);
    OutputFile file(link);
    file.write("through " + std::string(target));
    file.commit();
    CHECK(fs::is_symlink(link));
    CHECK_EQUAL(read_file(link), "through " + std::string(target));
  }
  CHECK_EQUAL(names_in(folder), (Names{"link-link-out", "link-not-yet-there", "link-out", "not-yet-there", "out"}));
  fs::create_symlink("round", folder / "round");
  CHECK_THROWS(OutputFile((folder / "round").string()), FatalError, "round: cannot be opened");
}

void output_to_a_descriptor_goes_on_where_it_is(const fs::path& folder) {
  const FileDescriptor appended(open((folder / "log").c_str(), O_CREAT | O_WRONLY | O_APPEND, 0600));
  CHECK_EQUAL(write(appended.get(), "before\n", 7), 7);
  for (const char* folder_of_descriptors : {"/dev/fd/", "/proc/self/fd/"}) {
    OutputFile file(folder_of_descriptors + std::to_string(appended.get()));
    file.write("line\n");
    file.commit();
  }
  CHECK_EQUAL(read_file(folder / "log"), "before\nline\nline\n");
  CHECK_THROWS(OutputFile("/dev/fd/99"), FatalError, "/dev/fd/99: cannot be opened (Bad file descriptor)");
}

void writing_fails_with_a_name(const fs::path& folder) {
  CHECK_THROWS(OutputFile("/dev/full").write("x"), FatalError, "/dev/full: cannot be written (No space left on dev");
  CHECK_THROWS(OutputFile("/no/such/folder/out"), FatalError, "/no/such/folder/out: cannot be opened");
  CHECK_THROWS(OutputFile(folder.string()), FatalError, "cannot be opened (Is a directory)");
}

}  // namespace

int main() {
  const std::string pattern = (fs::temp_directory_path() / "outputXXXXXX").string();
  std::vector<char> name(pattern.c_str(), pattern.c_str() + pattern.size() + 1);
  const fs::path folder = mkdtemp(name.data());
  const auto own = [&](const char* name) {
    fs::create_directory(folder / name);
    return folder / name;
  };
  output_appears_by_commit_alone(own("commit"));
  no_lines_make_an_empty_file(own("empty"));
  what_was_answered_stays_without_commit(own("kept"));
  a_target_that_cannot_be_replaced_is_written_over(own("mount"));
  a_target_that_became_a_folder_leaves_the_answers(own("folder"));
  output_through_a_link_keeps_the_link(own("links"));
  output_to_a_descriptor_goes_on_where_it_is(own("descriptor"));
  writing_fails_with_a_name(own("failing"));
  fs::remove_all(folder);
}
