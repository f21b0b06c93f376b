#ifndef TANGRAM_KERNELS_MPI_MODULE_H
#define TANGRAM_KERNELS_MPI_MODULE_H
#include <stdint.h>

/* What Tangram asks of an MPI library, as plain C, so that the program itself does not link MPI: it opens the module
 * libtangram_mpi.so when it finds that a launcher has started it. The module is looked for at $TANGRAM_MPI_MODULE, else
 * beside the program, else in ../lib. To use another MPI than that of the build, compile the module alone with it, in
 * the folder that holds kernels/:
 *
 *   mpicxx -std=c++17 -O2 -shared -fPIC -I. kernels/mpi/module.cpp -o libtangram_mpi.so -ldl
 *
 * Every function is called by one thread, the one that called `start`. Functions that can fail return 0, or MPI's code
 * for the error, which `error_text` explains. No message has more than 2^30 bytes. */

#ifdef __cplusplus
extern "C" {
#endif

#define TANGRAM_MPI_VERSION 1 /* goes up with every change of TangramMpi */

/* MPI's handles, whichever types they have there. */
typedef uint64_t TangramMpiGroup;
typedef uint64_t TangramMpiRequest;
typedef uint64_t TangramMpiMessage;

typedef struct TangramMpi {
  int version;
  int (*start)(TangramMpiGroup* world); /* once in a process */
  int (*stop)(void);                    /* returns when every rank has called it */
  void (*abort)(int exit_code);         /* ends every process of the job; may return */
  int (*rank)(TangramMpiGroup group);
  int (*size)(TangramMpiGroup group);
  /* MPI_Comm_split: the ranks of `group` that gave the same colour, in the order of their keys. Waits for all ranks. */
  int (*split)(TangramMpiGroup group, int colour, int key, TangramMpiGroup* part);

  /* Start a message and return. Messages of two ranks with one tag, 0 to 32767, arrive in the order of their sending.
   */
  int (*send)(TangramMpiGroup group, const void* data, int64_t bytes, int to, int tag, TangramMpiRequest* request);
  int (*receive)(TangramMpiGroup group, void* data, int64_t bytes, int from, int tag, TangramMpiRequest* request);
  /* Whether it is finished; then how many bytes have come, if it is one that is received. */
  int (*test)(TangramMpiRequest* request, int* finished, int64_t* bytes);
  /* Whether a message has come, and its size; it then waits to be received by `receive_found`. */
  int (*find)(TangramMpiGroup group, int from, int tag, int* found, TangramMpiMessage* message, int64_t* bytes);
  int (*receive_found)(TangramMpiMessage* message, void* data, int64_t bytes, TangramMpiRequest* request);

  void (*error_text)(int error, char* text, int64_t capacity);
  void (*library)(char* text, int64_t capacity); /* "Open MPI v4.1.4, …" */
} TangramMpi;

/* The module's one symbol. */
const TangramMpi* tangram_mpi(void);

#ifdef __cplusplus
}
#endif
#endif
