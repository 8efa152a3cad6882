/* How ranks tell one another the facts of a plan and where rows go (native/cuda/plan_kernels.cu, between processes), for
 * exhaustive checking.
 *
 * D ranks run E calls one after the other, each on its own stream. A plan
 *
 *   writes its counts into the memory of all ranks
 *   begins: tells the others, and waits for them
 *   reads the counts of all ranks; writes where its rows go
 *   ends: tells the others, and waits for them
 *   reads where the rows of the others go
 *
 * An exchange, call X, begins and ends, but its end waits only for the beginnings of the others. What is checked: no
 * deadlock, and whatever is read was written by this very call: neither earlier, nor later by a rank that is ahead.
 *
 * The macros NO_BEGIN and NO_END take one rule away; each must be found out. So must ONE_MEMORY, in which the counts of a
 * plan lie where the one before, of other sizes, has where rows go.
 */
#ifndef D
#define D 3
#endif
#ifndef E
#define E 5
#endif
#ifndef X
#define X 3
#endif

#define of(d, s) ((d) * D + (s))

byte counts[D * D];   /* [rank, source]: call that wrote them */
byte arrivals[D * D]; /* likewise */
byte begun[D * D];    /* [rank, source]: call that the source has begun */
byte ended[D * D];

#define forPeers(step) \
  d = 0; \
  do \
  :: d < D -> step; d++ \
  :: else -> break \
  od

proctype Rank(byte self) {
  byte e = 1;
  byte d;
  do
  :: e > E -> break
  :: else ->
     if
     :: e != X ->
        forPeers(counts[of(d, self)] = e);
#ifdef ONE_MEMORY
        forPeers(arrivals[of(d, self)] = 0)
#endif
     :: else
     fi;
     forPeers(begun[of(d, self)] = e);
#ifndef NO_BEGIN
     forPeers(begun[of(self, d)] >= e);
#endif
     if
     :: e != X ->
        forPeers(assert(counts[of(self, d)] == e));
        forPeers(arrivals[of(d, self)] = e);
        forPeers(ended[of(d, self)] = e);
#ifndef NO_END
        forPeers(ended[of(self, d)] >= e);
#endif
        forPeers(assert(arrivals[of(self, d)] == e))
     :: else
     fi;
     e++
  od
}

init {
  byte i = 0;
  atomic {
    do
    :: i < D -> run Rank(i); i++
    :: else -> break
    od
  }
}
