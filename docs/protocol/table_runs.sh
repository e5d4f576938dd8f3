#!/bin/sh
# Every run of TABLE.md. Rules as corrected: errors=0. Mutations: errors=1, shortest trace (breadth first), by property (ONLY=1: A, 2: B, 3: C).
. ./expect.sh
for a in "-DC=2 -DNC=2" "-DC=1 -DNC=4" "-DC=1 -DNC=3 -DW=3" "-DC=1 -DNO=3 -DNC=2 -DW=1" "-DC=2 -DNC=2 -DNSN=1" "-DC=1 -DNC=3 -DNSN=1" "-DC=1 -DNC=2 -DNSN=2" \
  "-DC=1 -DNC=3 -DDESTROY" "-DC=1 -DNC=3 -DDESTROY -DEXPIRE -DGUARD" "-DC=1 -DNO=3 -DNC=2 -DW=1 -DRM=0 -DDESTROY -DEXPIRE -DGUARD" \
  "-DC=2 -DNC=2 -DNOMARK" "-DC=1 -DNO=3 -DNC=2 -DW=1 -DNOMARK" "-DC=2 -DNC=3 -DNOMARK" "-DC=2 -DNC=3 -DW=1" "-DC=2 -DNC=3"; do ok table.pml $a; done
for m in UNCOND NOU MISSING FOUND NOMARK MARKFIRST MARKONLY EQNORAISE PURGESENT OVSEND OVOLD; do bad table.pml -DC=2 -DONLY=1 -DM_$m; done
for m in SNAPONLY GAP PURGESNAP; do bad table.pml -DNC=2 -DNSN=1 -DONLY=1 -DM_$m; done
bad table.pml -DC=2 -DONLY=1 -DNOMARK -DM_PURGENOW
for o in 1 2 3; do bad table.pml -DONLY=$o -DDESTROY -DEXPIRE; done; bad table.pml -DONLY=1 -DDESTROY -DM_SKIPTOMB
for m in UNCOND PURGESENT OVSEND OVOLD; do bad table.pml -DC=2 -DONLY=2 -DM_$m; done
for m in UNCOND BLIND; do bad table.pml -DC=2 -DONLY=3 -DM_$m; done
for a in "-DNC=2 -DFAULTS=3" "-DC=2 -DNC=2 -DFAULTS=1" "-DNC=2 -DNOMARK" "-DNC=2 -DRM=2 -DEXTRA=4 -DDESTROY -DEXPIRE -DGUARD" "-DNC=2 -DM_NOLEADER"; do live table.pml $a; done
exit $failed
