# bash completion for ttybroker(1), ttyrun(1) and ttybrokerd(8)

_ttybroker_ports()
{
	ttybroker list 2>/dev/null | sed -n '1!s/ .*//p'
}

_ttybroker_profiles()
{
	sed -n 's/^\[profile\.\([^]]*\)\].*/\1/p' "${XDG_CONFIG_HOME:-$HOME/.config}/ttybroker/term.toml" 2>/dev/null
}

_ttybroker()
{
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}
	local command=${COMP_WORDS[1]} first=2 i words
	if [[ ${COMP_WORDS[0]##*/} == ttyrun ]]; then
		command=run first=1
	elif ((COMP_CWORD == 1)); then
		COMPREPLY=($(compgen -W 'list run term check revoke suggest history demo --help --version' -- "$cur"))
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
	*:--wait | *:--for | run:--fd | revoke:--hold) return ;;
	term:-b | term:--baud | term:--baudrate) words='9600 19200 38400 57600 115200 230400 460800 921600' ;;
	term:-d | term:--databits) words='5 6 7 8' ;;
	term:-p | term:--parity) words='none even odd mark space' ;;
	term:-s | term:--stopbits) words='1 2' ;;
	term:-f | term:--flow) words='none hard soft' ;;
	term:--yield) words='user all no' ;;
	term:--timestamps) words='iso delta none' ;;
	term:--eol) words='cr lf crlf' ;;
	term:--filter) words='default direct nocontrol printable colorize debug' ;;
	term:--rts | term:--dtr) words='0 1' ;;
	term:--profile) words=$(_ttybroker_profiles) ;;
	term:--log | term:--send)
		COMPREPLY=($(compgen -f -- "$cur"))
		return
		;;
	term:--linger | term:--encoding | term:--exit-char | term:--menu-char) return ;;
	check:--user) words=$(compgen -u) ;;
	run:--stdio) words=$(_ttybroker_ports) ;;
	*)
		case $command:$cur in
		list:-*) words='--json --copies --details --watch --help' ;;
		run:-*) words='--via --wait --quiet --hold --yield --for --fd --stdio --help --version --' ;;
		term:-*) words="--baud --baudrate --databits --parity --stopbits --flow --rtscts --xonxoff --rts
			--dtr --wait --yield --take --no-take --for --reconnect --no-reconnect --linger --send
			--profile --log --timestamps --hex --no-hex --eol --echo --no-echo --filter --encoding
			--raw --no-raw --quiet --no-quiet --exit-char --menu-char --help" ;;
		revoke:-*) words='--hold --help' ;;
		check:-*) words='--user --broker --json --help' ;;
		history:-*) words='--json --help' ;;
		demo:-* | suggest:-*) words=--help ;;
		list:* | run:* | term:* | check:* | revoke:* | suggest:* | history:*) words=$(_ttybroker_ports) ;;
		esac
		;;
	esac
	COMPREPLY=($(compgen -W "$words" -- "$cur"))
}

_ttybrokerd()
{
	local cur=${COMP_WORDS[COMP_CWORD]}
	case ${COMP_WORDS[COMP_CWORD - 1]} in
	--policy | --socket) COMPREPLY=($(compgen -f -- "$cur")) ;;
	--lock-dir) COMPREPLY=($(compgen -d -- "$cur")) ;;
	*) COMPREPLY=($(compgen -W '--policy --socket --lock-dir --prepare --check --udev-rules --version --help' -- "$cur")) ;;
	esac
}

complete -F _ttybroker ttybroker ttyrun
complete -F _ttybrokerd ttybrokerd
