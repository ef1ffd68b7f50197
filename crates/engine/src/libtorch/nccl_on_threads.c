/* The NCCL 2 calls that ctseg uses, between threads of one process and on host memory, for tests on machines without
 * GPUs. Signatures are those of nccl.h. */
#include <pthread.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

typedef struct { char internal[128]; } ncclUniqueId;
struct meeting { pthread_barrier_t met; pthread_mutex_t lock; double *sums; char *bytes; };
typedef struct { int rank, size, over; struct meeting *meeting; } *ncclComm_t;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct meeting *only;

int ncclGetUniqueId(ncclUniqueId *id) {
  memset(id, 'm', sizeof *id);
  return 0;
}

int ncclCommInitRank(ncclComm_t *comm, int size, ncclUniqueId id, int rank) {
  if (id.internal[0] != 'm' || id.internal[127] != 'm' || rank >= size) return 4; /* ncclInvalidArgument */
  pthread_mutex_lock(&lock);
  if (!only) {
    only = calloc(1, sizeof *only);
    pthread_barrier_init(&only->met, NULL, (unsigned)size);
    pthread_mutex_init(&only->lock, NULL);
  }
  pthread_mutex_unlock(&lock);
  *comm = calloc(1, sizeof **comm);
  (*comm)->rank = rank;
  (*comm)->size = size;
  (*comm)->meeting = only;
  return 0;
}

int ncclAllReduce(const void *from, void *to, size_t count, int type, int op, ncclComm_t comm, void *stream) {
  struct meeting *m = comm->meeting;
  if ((type != 7 && type != 8) || op != 0 || stream) return 4;
  pthread_mutex_lock(&m->lock);
  if (!m->sums) m->sums = calloc(count, sizeof *m->sums);
  for (size_t i = 0; i < count; ++i) m->sums[i] += type == 7 ? ((const float *)from)[i] : ((const double *)from)[i];
  pthread_mutex_unlock(&m->lock);
  pthread_barrier_wait(&m->met);
  for (size_t i = 0; i < count; ++i)
    if (type == 7) ((float *)to)[i] = (float)m->sums[i];
    else ((double *)to)[i] = m->sums[i];
  if (pthread_barrier_wait(&m->met) == PTHREAD_BARRIER_SERIAL_THREAD) {
    free(m->sums);
    m->sums = NULL;
  }
  pthread_barrier_wait(&m->met);
  return 0;
}

int ncclBroadcast(const void *from, void *to, size_t count, int type, int root, ncclComm_t comm, void *stream) {
  struct meeting *m = comm->meeting;
  if (type != 1 || stream) return 4;
  if (comm->rank == root) m->bytes = memcpy(malloc(count), from, count);
  pthread_barrier_wait(&m->met);
  memcpy(to, m->bytes, count);
  if (pthread_barrier_wait(&m->met) == PTHREAD_BARRIER_SERIAL_THREAD) free(m->bytes);
  pthread_barrier_wait(&m->met);
  return 0;
}

int ncclCommGetAsyncError(ncclComm_t comm, int *state) {
  if (comm->over) return 4;
  *state = 0;
  return 0;
}

int ncclCommDestroy(ncclComm_t comm) {
  comm->over = 1; /* kept, so that who uses it afterwards is found out */
  return 0;
}

const char *ncclGetErrorString(int status) { return status == 4 ? "invalid argument" : "no error"; }
