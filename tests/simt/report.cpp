#include "report.h"

#include <dlfcn.h>

#include <cstdarg>
#include <cstdio>
#include <cstring>

namespace simt {

std::string text(const char* format, ...) {
  char buffer[4096];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(buffer, sizeof buffer, format, arguments);
  va_end(arguments);
  return buffer;
}

std::string name(const Site& site) {
  const char* slash = std::strrchr(site.file, '/');
  return text("%s:%d", slash == nullptr ? site.file : slash + 1, site.line);
}

// Names of static functions are in the debug information alone, so binutils must help. Of
//   void focaldet_simt::(anonymous namespace)::kernel<float>(float*) at file.cu:7 (discriminator 1)
// kernel<float> at file.cu:7 is left.
std::string symbol(const void* address) {
  Dl_info info;
  if (dladdr(address, &info) == 0) return text("%p", address);
  const auto offset = static_cast<const char*>(address) - static_cast<const char*>(info.dli_fbase);
  const std::string command = text("addr2line -Cfsp -e '%s' %#tx", info.dli_fname, offset);
  std::string line;
  if (FILE* pipe = popen(command.c_str(), "r")) {
    for (int c; (c = std::fgetc(pipe)) != EOF && c != '\n';) line += static_cast<char>(c);
    pclose(pipe);
  }
  const auto cut = [&](size_t from, size_t to) {
    if (from < to && to != std::string::npos) line.erase(from, to - from);
  };
  cut(line.find(" (discriminator"), line.size());
  if (line.rfind("void ", 0) == 0) cut(0, std::strlen("void "));
  for (const char* scope : {"focaldet_", "(anonymous"}) {
    for (size_t at = 0; (at = line.find(scope, at)) != std::string::npos; ++at) {
      cut(at, line.find("::", at) + 2);
    }
  }
  cut(line.find('('), line.rfind(" at "));
  return line;
}

}  // namespace simt
