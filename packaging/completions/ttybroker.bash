# bash completion for ttybroker(1) and ttyrun(1)

_ttybroker_ports()
{
	ttybroker list 2>/dev/null | sed -n '1!s/ .*//p'
}

_ttybroker()
{
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}
	local command=${COMP_WORDS[1]} first=2 i words
	if [[ ${COMP_WORDS[0]##*/} == ttyrun ]]; then
		command=run first=1
	elif ((COMP_CWORD == 1)); then
		COMPREPLY=($(compgen -W 'list run term check revoke demo --help' -- "$cur"))
		return
	fi
	COMPREPLY=()
	if [[ $command == run ]]; then
		for ((i = first; i < COMP_CWORD; i++)); do
			if [[ ${COMP_WORDS[i]} == -- ]]; then # from here on it is a program's line
				if declare -F _command_offset >/dev/null; then
					_command_offset $((i + 1))
				elif ((i + 1 == COMP_CWORD)); then
					COMPREPLY=($(compgen -c -- "$cur"))
				fi
				return
			fi
		done
	fi
	case $command:$prev in
	run:--via) words='auto notify pty' ;;
	*:--wait | run:--fd) return ;;
	check:--user) words=$(compgen -u) ;;
	run:--stdio) words=$(_ttybroker_ports) ;;
	*)
		case $command:$cur in
		list:*) words=--json ;;
		run:-*) words='--via --wait --fd --stdio --' ;;
		term:-*) words=--wait ;;
		check:-*) words='--user --broker --json' ;;
		run:* | term:* | check:* | revoke:*) words=$(_ttybroker_ports) ;;
		esac
		;;
	esac
	COMPREPLY=($(compgen -W "$words" -- "$cur"))
}

complete -F _ttybroker ttybroker ttyrun
