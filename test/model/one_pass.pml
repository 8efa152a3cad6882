/* The signals of one-pass exchanges (native/cuda/signals_device.cuh and one_pass_device.cuh), for exhaustive checking.
 *
 * D devices run E calls one after the other. A launch has W warps, of which at most R are resident at a time: the
 * others start only when one has ended. Every warp takes work by ticket.
 *
 *   dispatch  send(chunk): await ready; write the peers' rows; set their flags
 *             fan(chunk):  await the flag; read the rows
 *   gradient  send(chunk): as dispatch, and writes the weights of the chunk into the peers' set of this call's parity
 *             fan(chunk):  await the flag; read the rows and the weights; write the source's products; set their flag
 *             at the end:  await the flags of the products
 *   combine   push:        write weights, each with the call's number, into the peers' set of this call's parity
 *             send(chunk): await weights with this number; read them; write the peer's landing row; set its flag
 *             home(chunk): await the flags; read the landing rows
 *
 * Calls are dispatch, combine, combine, dispatch; with GRADIENT gradient, combine, combine, gradient. What is checked: no
 * deadlock; nothing is read before it was written by this call; nothing is written while its owner may still read what an
 * earlier call wrote; all rows and products are in place when a launch ends; no device is more than one call ahead of
 * another.
 *
 * With PREFETCH a warp takes its next ticket before it works on the last one.
 *
 * The macros NO_READY, NO_FLAG, ONE_SET, NO_END, NO_PRODUCTS and FIXED_ROLES take one rule away; each must be found out.
 */
#ifndef D
#define D 2
#endif
#ifndef W
#define W 2
#endif
#ifndef R
#define R 1
#endif
#ifndef C
#define C 2
#endif
#ifndef E
#define E 4
#endif
#ifndef LAG
#define LAG 1
#endif

#define at(d, x) ((d) * D + (x))
#define chunkAt(d, s, c) (((d) * D + (s)) * C + (c))
/* Where a source's weights are at a device: another place in each call, since plans differ. */
#ifdef ONE_SET
#define setAt(d, s, e) ((d) * D + ((s) + (e)) % D)
#else
#define setAt(d, s, e) (((d) * D + ((s) + (e)) % D) * 2 + (e) % 2)
#endif
/* Device 0 exchanges no rows with others in calls 2 and 3. */
#define linked(a, b, e) ((a) != (b) && ((e) < 2 || (e) > 3 || ((a) != 0 && (b) != 0)))

byte epoch[D];        /* calls completed */
byte ready[D * D];    /* [device, peer]: call for which the peer is ready */
byte flag[D * D * C]; /* [device, source, chunk] */
byte rows[D * D * C]; /* call that wrote the receive rows of (source, chunk) */
byte land[D * D * C]; /* call that wrote the landing row of (sender, chunk) */
byte pushed[D * D * 2];
byte reading[D * D * 2]; /* warps that read a pushed set */
#ifdef GRADIENT
byte products[D * D * C];    /* call that wrote the products of (sender, chunk) */
byte productFlag[D * D * C]; /* [device, sender, chunk] */
#endif

byte resident[D];
byte arrived[D];
byte done[D];
byte ticket[D * 2];

#ifdef NO_READY
#define awaitReady(me, e) skip
#else
#define awaitReady(me, e) \
  peer = 0; \
  do \
  :: peer == D -> break \
  :: else -> (peer == me || ready[at(me, peer)] >= e); peer++ \
  od
#endif

#ifdef NO_FLAG
#define awaitFlag(condition) skip
#else
#define awaitFlag(condition) (condition)
#endif

/* Takes a ticket of counter `counter`; `next` is one more than a ticket that was taken ahead, or 0. */
#ifdef PREFETCH
#define takeTicket(counter, next, limit) \
  atomic { \
    if \
    :: next == 0 -> work = ticket[counter]; ticket[counter]++ \
    :: else -> work = next - 1 \
    fi; \
    next = 0 \
  }; \
  if \
  :: work < limit -> atomic { next = ticket[counter] + 1; ticket[counter]++ } \
  :: else \
  fi
#else
#define takeTicket(counter, next, limit) atomic { work = ticket[counter]; ticket[counter]++ }
#endif

/* Sets the flags of a chunk: at all peers, where `home` is D, or at the home rank of a partial sum. */
#define setFlags(c, home) \
  if \
  :: home == D -> \
    for (target : 0 .. D - 1) { \
      if \
      :: linked(me, target, e) -> flag[chunkAt(target, me, c)] = e \
      :: else \
      fi \
    } \
  :: else -> flag[chunkAt(home, me, c)] = e \
  fi

proctype Warp(byte me; byte number) {
  byte e = 1;
  byte arrival, work, chunk, peer, source, target;
  byte next[2];
  bool sender;
  do
  :: e > E -> break
  :: else ->
    atomic { epoch[me] == e - 1 && resident[me] < R -> resident[me]++; arrival = arrived[me]; arrived[me]++ }
    if
    :: arrival == 0 ->
      for (peer : 0 .. D - 1) { if :: peer != me -> ready[at(peer, me)] = e :: else fi }
    :: else
    fi;
    if
    :: e % 3 == 1 -> /* dispatch: per step one send and D - 1 fan items */
      do
      :: takeTicket(me, next[0], D * (C + LAG));
        chunk = work / D;
        if
        :: chunk >= C + LAG -> break
        :: else
        fi;
        if
        :: work % D == 0 && chunk < C ->
          if
          :: linked(me, (me + 1) % D, e) || linked(me, (me + 2) % D, e) -> awaitReady(me, e)
          :: else
          fi;
          for (peer : 0 .. D - 1) {
            if
            :: linked(me, peer, e) ->
              assert(epoch[peer] == e - 1);
#ifdef GRADIENT
              /* Other chunks of this call may be read. */
              assert(reading[setAt(peer, me, e)] == 0 || pushed[setAt(peer, me, e)] == e);
              pushed[setAt(peer, me, e)] = e;
#endif
              rows[chunkAt(peer, me, chunk)] = e
            :: else
            fi
          };
          setFlags(chunk, D)
        :: work % D != 0 && chunk >= LAG ->
          source = (me + work % D) % D;
          if
          :: linked(me, source, e) ->
            awaitFlag(flag[chunkAt(me, source, chunk - LAG)] >= e);
            assert(rows[chunkAt(me, source, chunk - LAG)] == e)
#ifdef GRADIENT
            ;
            reading[setAt(me, source, e)]++;
            assert(pushed[setAt(me, source, e)] == e);
            reading[setAt(me, source, e)]--;
            assert(epoch[source] == e - 1);
            products[chunkAt(source, me, chunk - LAG)] = e;
            productFlag[chunkAt(source, me, chunk - LAG)] = e
#endif
          :: else
          fi
        :: else
        fi
      od
#ifdef GRADIENT
#ifndef NO_PRODUCTS
      ;
      for (source : 0 .. D - 1) {
        for (chunk : 0 .. C - 1) {
          if
          :: linked(me, source, e) && chunk % W == number -> (productFlag[chunkAt(me, source, chunk)] >= e)
          :: else
          fi
        }
      }
#endif
#endif
    :: else -> /* combine: tickets of pushes and sends, then tickets of home items */
#ifdef FIXED_ROLES
      sender = number > 0;
#else
      sender = arrival == 0;
#endif
      do
      :: sender ->
        takeTicket(me, next[0], (D - 1) * (C + 1));
        if
        :: work < D - 1 ->
          peer = (me + 1 + work) % D;
          assert(reading[setAt(peer, me, e)] == 0);
          pushed[setAt(peer, me, e)] = e
        :: work >= D - 1 && work < (D - 1) * (C + 1) ->
          source = (me + 1 + (work - (D - 1)) % (D - 1)) % D; /* the home rank */
          chunk = (work - (D - 1)) / (D - 1);
          if
          :: linked(me, source, e) ->
          awaitFlag(pushed[setAt(me, source, e)] == e);
          reading[setAt(me, source, e)]++;
          assert(pushed[setAt(me, source, e)] == e);
          reading[setAt(me, source, e)]--;
          assert(epoch[source] == e - 1);
          land[chunkAt(source, me, chunk)] = e;
          setFlags(chunk, source)
          :: else
          fi
        :: else -> sender = false
        fi
      :: else ->
        takeTicket(D + me, next[1], C);
        if
        :: work >= C -> break
        :: else
        fi;
        for (source : 0 .. D - 1) {
          if
          :: linked(me, source, e) ->
            awaitFlag(flag[chunkAt(me, source, work)] >= e);
            assert(land[chunkAt(me, source, work)] == e)
          :: else
          fi
        }
      od
    fi;
    next[0] = 0;
    next[1] = 0;
#ifndef NO_END
    if
    :: arrival == 0 -> awaitReady(me, e)
    :: else
    fi;
#endif
    atomic {
      done[me]++;
      if
      :: done[me] == W ->
        done[me] = 0; arrived[me] = 0; ticket[me] = 0; ticket[D + me] = 0;
        for (source : 0 .. D - 1) {
          for (chunk : 0 .. C - 1) {
            assert(!linked(me, source, e) || e % 3 != 1 || rows[chunkAt(me, source, chunk)] == e)
#ifdef GRADIENT
            ;
            assert(!linked(me, source, e) || e % 3 != 1 || products[chunkAt(me, source, chunk)] == e)
#endif
          }
          assert(epoch[source] + 1 >= e) /* at most one call ahead */
        }
        epoch[me] = e
      :: else
      fi;
      resident[me]--
    }
    e++
  od
}

init {
  byte d, w;
  atomic {
    for (d : 0 .. D - 1) {
      for (w : 0 .. W - 1) { run Warp(d, w) }
    }
  }
}
