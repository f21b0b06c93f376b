#include "kernels/mpi/module.h"

#include <dlfcn.h>
#define OMPI_SKIP_MPICXX 1  // the C++ functions that MPI had before version 3
#define MPICH_SKIP_MPICXX 1
#include <mpi.h>

#include <algorithm>
#include <cstring>

namespace {

// MPI's handles are pointers in some libraries and integers in others.
template <class T>
uint64_t pack(T handle) {
  static_assert(sizeof handle <= sizeof(uint64_t));
  uint64_t bits = 0;
  std::memcpy(&bits, &handle, sizeof handle);
  return bits;
}
template <class T>
T unpack(uint64_t bits) {
  T handle;
  std::memcpy(&handle, &bits, sizeof handle);
  return handle;
}
MPI_Comm comm(TangramMpiGroup group) { return unpack<MPI_Comm>(group); }

int start(TangramMpiGroup* world) {
  // Some MPI libraries open plug-ins of their own, which look for the library's symbols in the whole process.
  if (Dl_info info; dladdr(reinterpret_cast<void*>(&MPI_Init_thread), &info) && info.dli_fname)
    dlopen(info.dli_fname, RTLD_NOW | RTLD_GLOBAL | RTLD_NOLOAD);
  int provided = 0;
  // Serialized: nothing but the calling thread calls MPI, whether or not it is the one that runs main.
  if (const int error = MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &provided)) return error;
  MPI_Comm own;
  if (const int error = MPI_Comm_dup(MPI_COMM_WORLD, &own)) return error;
  *world = pack(own);
  return MPI_Comm_set_errhandler(own, MPI_ERRORS_RETURN);
}

int stop() { return MPI_Finalize(); }
void abort_job(int exit_code) { MPI_Abort(MPI_COMM_WORLD, exit_code); }

int rank_in(TangramMpiGroup group) {
  int rank = -1;
  MPI_Comm_rank(comm(group), &rank);
  return rank;
}
int size_of(TangramMpiGroup group) {
  int size = 0;
  MPI_Comm_size(comm(group), &size);
  return size;
}

int split(TangramMpiGroup group, int colour, int key, TangramMpiGroup* part) {
  MPI_Comm own;
  if (const int error = MPI_Comm_split(comm(group), colour, key, &own)) return error;
  *part = pack(own);
  return MPI_Comm_set_errhandler(own, MPI_ERRORS_RETURN);
}

int send(TangramMpiGroup group, const void* data, int64_t bytes, int to, int tag, TangramMpiRequest* request) {
  MPI_Request started;
  const int error = MPI_Isend(data, int(bytes), MPI_BYTE, to, tag, comm(group), &started);
  if (!error) *request = pack(started);
  return error;
}

int receive(TangramMpiGroup group, void* data, int64_t bytes, int from, int tag, TangramMpiRequest* request) {
  MPI_Request started;
  const int error = MPI_Irecv(data, int(bytes), MPI_BYTE, from, tag, comm(group), &started);
  if (!error) *request = pack(started);
  return error;
}

int test(TangramMpiRequest* request, int* finished, int64_t* bytes) {
  auto tested = unpack<MPI_Request>(*request);
  MPI_Status status;
  if (const int error = MPI_Test(&tested, finished, &status)) return error;
  *request = pack(tested);
  int count = 0;
  if (*finished) MPI_Get_count(&status, MPI_BYTE, &count);
  *bytes = count;
  return 0;
}

int find(TangramMpiGroup group, int from, int tag, int* found, TangramMpiMessage* message, int64_t* bytes) {
  MPI_Message matched;
  MPI_Status status;
  if (const int error = MPI_Improbe(from, tag, comm(group), found, &matched, &status)) return error;
  int count = 0;
  if (*found) MPI_Get_count(&status, MPI_BYTE, &count), *message = pack(matched);
  *bytes = count;
  return 0;
}

int receive_found(TangramMpiMessage* message, void* data, int64_t bytes, TangramMpiRequest* request) {
  auto matched = unpack<MPI_Message>(*message);
  MPI_Request started;
  const int error = MPI_Imrecv(data, int(bytes), MPI_BYTE, &matched, &started);
  if (!error) *request = pack(started);
  return error;
}

void copy_text(const char* from, int length, char* text, int64_t capacity) {
  const auto size = size_t(std::clamp<int64_t>(length, 0, capacity - 1));
  std::memcpy(text, from, size);
  text[size] = 0;
}

void error_text(int error, char* text, int64_t capacity) {
  char explained[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  MPI_Error_string(error, explained, &length);
  copy_text(explained, length, text, capacity);
}

void library(char* text, int64_t capacity) {
  char version[MPI_MAX_LIBRARY_VERSION_STRING] = "";
  int length = 0;
  MPI_Get_library_version(version, &length);
  copy_text(version, length, text, capacity);
}

}  // namespace

extern "C" const TangramMpi* tangram_mpi() {
  static const TangramMpi module = {
      TANGRAM_MPI_VERSION, start,      stop,   abort_job, rank_in, size_of, split, send, receive, test, find,
      receive_found,       error_text, library};
  return &module;
}
