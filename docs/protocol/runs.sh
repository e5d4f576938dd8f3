#!/bin/sh
# Every run of the README. Rules as corrected: errors=0. Mutations: errors=1, shortest trace (breadth first).
. ./expect.sh
S="core.pml -DNS=2 -DNT=0 -DFAULTS=1"; T="core.pml -DNS=0 -DNT=2 -DN=3 -DL=3"
ok $S; wide $S -DREORDER; ok core.pml -DNS=2 -DNT=0 -DN=2 -DFAULTS=2 -DL=12
ok core.pml -DNS=3 -DNT=0 -DN=2 -DFAULTS=1; ok core.pml -DNS=2 -DNT=2 -DN=2 -DFAULTS=0 -DL=6
ok core.pml -DNS=0 -DNT=2 -DL=4; ok core.pml -DNS=0 -DNT=3 -DN=2 -DL=3; ok core.pml -DNS=0 -DNT=2 -DL=5
ok due.pml -DNO=3; ok due.pml -DNO=2 -DM=4 -DA=2; ok due.pml -DNO=2 -DPARKANY -DFIX_READER
for c in "-DINTENT" "-DINTENT -DTWO" "-DINTENT -DTWO -DSETTLED -DFORGET -DNO=3"; do ok call.pml $c; done
for m in M_NOPREV M_LATERACKS M_EARLY M_UNCOND M_NORESEND "REORDER -DM_NOPOS"; do bad $S -D$m; done
for m in M_SEENLATEST M_NOPREV M_UNCOND M_SKIPDONE M_DONEFIRST M_DONELAST M_NODONE M_PURGE; do bad $T -D$m; done
bad core.pml -DNS=0 -DNT=3 -DN=2 -DL=2 -DM_DROPDONE
for m in PARKANY M_LAZYLOAD M_FLAGATSTART M_DELAFTER "M_RECORDALONE -DZOMBIES"; do bad due.pml -DNO=2 -D$m; done
for c in "" "-DHASH -DTWO" "-DINTENT -DFORGET" "-DINTENT -DEARLYLOOKUP" "-DINTENT -DM_STEPUNCOND"; do bad call.pml $c; done
live core.pml -DNS=2 -DNT=0 -DN=2 -DFAULTS=1; live core.pml -DNS=0 -DNT=2 -DN=2 -DL=2; live due.pml -DNO=2
exit $failed
