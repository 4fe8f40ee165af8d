# say.sh, for scripts that set `name` first: what they say, and how they fail. $work is theirs, and is
# removed at their end.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

say() { echo "$name: $*"; }
fail() {
	say "$*"
	exit 1
}
quietly() { "$@" >"$work/log" 2>&1 || { cat "$work/log"; fail "$* failed"; }; }
