# Sourced by the lists of runs: ok (rules as corrected: no error), wide (the same, breadth first), live (liveness),
# bad (a mutation: one error). What is otherwise is named, and `failed` is 1 then. QUICK=1 leaves out runs over 30 s.
failed=0
expect() {
    wanted=$1; shift
    line=$(env LIMIT="${QUICK:+30}" "$@")
    echo "$line"
    case $line in
        *"errors=$wanted "*) ;;
        *"errors= "*) [ -n "${QUICK:-}" ] && echo "  cut off" || { echo "  no result within its limit"; failed=1; } ;;
        *) echo "  expected errors=$wanted"; failed=1 ;;
    esac
}
ok() { expect 0 ./check.sh "$@"; }
wide() { expect 0 env BFS=1 ./check.sh "$@"; }
live() { expect 0 env LIVE=1 ./check.sh "$@"; }
bad() { expect 1 env BFS=1 ./check.sh "$@"; }
