# fish completion for ttybroker(1), ttyrun(1) and ttybrokerd(8)

function __ttybroker_ports
    ttybroker list 2>/dev/null | sed -n '1!s/ .*//p'
end

function __ttybroker_in # is the command one of these, and is what is typed not its program's
    set -l words (commandline -opc)
    contains -- -- $words; and return 1
    test "$words[1]" = ttyrun; and set words x run
    contains -- "$words[2]" $argv
end

function __ttybroker_profiles
    set -l config $XDG_CONFIG_HOME
    test -n "$config"; or set config $HOME/.config
    sed -n 's/^\[profile\.\([^]]*\)\].*/\1/p' $config/ttybroker/term.toml 2>/dev/null
end

function __ttybroker_program
    set -l words (commandline -opc)
    set -l at (contains -i -- -- $words); or return
    set -l typed (commandline -ct)
    set -l line (string escape -- $words[(math $at + 1)..-1])
    complete -C "$line $typed"
end

for command in ttybroker ttyrun
    complete -c $command -f
    complete -c $command -n '__ttybroker_in run' -l via -x -a 'auto notify pty' -d 'How opens are answered'
    complete -c $command -n '__ttybroker_in run' -l wait -x -d 'Queue for a busy port'
    complete -c $command -n '__ttybroker_in run' -s q -l quiet -d 'Do not show who has the port'
    complete -c $command -n '__ttybroker_in run' -l hold -d 'Keep the ports from start to end'
    complete -c $command -n '__ttybroker_in run' -l yield -d 'Lend the port to your other programs'
    complete -c $command -n '__ttybroker_in run' -l for -x -d 'Say for whom or what you use it'
    complete -c $command -n '__ttybroker_in run' -l fd -x -d 'Open the port as this descriptor'
    complete -c $command -n '__ttybroker_in run' -l stdio -x -a '(__ttybroker_ports)' -d 'Open the port as standard input and output'
    complete -c $command -n '__ttybroker_in list run term check revoke suggest history demo' -s h -l help -d 'Help'
    complete -c $command -n '__ttybroker_in run' -s V -l version -d 'Show the version'
    complete -c $command -n '__ttybroker_in list run term check revoke suggest history' -a '(__ttybroker_ports)'
    complete -c $command -n 'contains -- -- (commandline -opc)' -a '(__ttybroker_program)'
end
complete -c ttybroker -n __fish_is_first_arg -a list -d 'The ports you may use, and who has them'
complete -c ttybroker -n __fish_is_first_arg -a run -d 'Run any program on brokered ports'
complete -c ttybroker -n __fish_is_first_arg -a term -d 'A terminal on a port'
complete -c ttybroker -n __fish_is_first_arg -a check -d 'Would it be allowed, and by which rule'
complete -c ttybroker -n __fish_is_first_arg -a revoke -d 'Take a port back from its holder'
complete -c ttybroker -n __fish_is_first_arg -a suggest -d 'A rule of the policy for a port'
complete -c ttybroker -n __fish_is_first_arg -a history -d 'Who had a port'
complete -c ttybroker -n __fish_is_first_arg -a demo -d 'See it work, on a pty'
complete -c ttybroker -n '__ttybroker_in list check history' -l json -d 'For programs'
complete -c ttybroker -n '__ttybroker_in list' -l copies -d 'Name every process that has it open'
complete -c ttybroker -n '__ttybroker_in list' -l watch -d 'Keep running, and show changes'
complete -c ttybroker -n '__ttybroker_in list' -l details -d 'With speed, modem lines, errors'
complete -c ttybroker -n __fish_is_first_arg -s h -l help -d 'Help'
complete -c ttybroker -n __fish_is_first_arg -l version -s V -d 'Show the version'
complete -c ttybroker -n '__ttybroker_in term' -s b -l baud -l baudrate -x -a '9600 19200 38400 57600 115200 230400 460800 921600' -d 'Speed'
complete -c ttybroker -n '__ttybroker_in term' -s d -l databits -x -a '5 6 7 8' -d 'Data bits'
complete -c ttybroker -n '__ttybroker_in term' -s p -l parity -x -a 'none even odd mark space' -d 'Parity'
complete -c ttybroker -n '__ttybroker_in term' -s s -l stopbits -x -a '1 2' -d 'Stop bits'
complete -c ttybroker -n '__ttybroker_in term' -s f -l flow -x -a 'none hard soft' -d 'Flow control'
complete -c ttybroker -n '__ttybroker_in term' -l rtscts -d 'As --flow hard'
complete -c ttybroker -n '__ttybroker_in term' -l xonxoff -d 'As --flow soft'
complete -c ttybroker -n '__ttybroker_in term' -l rts -x -a '0 1' -d 'RTS at the start'
complete -c ttybroker -n '__ttybroker_in term' -l dtr -x -a '0 1' -d 'DTR at the start'
complete -c ttybroker -n '__ttybroker_in term' -l wait -x -d 'Queue for a busy port'
complete -c ttybroker -n '__ttybroker_in term' -l yield -x -a 'user all no' -d 'Lend the port to programs that ask'
complete -c ttybroker -n '__ttybroker_in term' -l take -d 'Borrow the port of a program that yields it'
complete -c ttybroker -n '__ttybroker_in term' -l no-take -d 'Not so'
complete -c ttybroker -n '__ttybroker_in term' -l for -x -d 'Say for whom or what you use it'
complete -c ttybroker -n '__ttybroker_in term' -l reconnect -d 'Come back after unplugging and a revoke'
complete -c ttybroker -n '__ttybroker_in term' -l no-reconnect -d 'End then'
complete -c ttybroker -n '__ttybroker_in term' -l linger -x -d 'Quiet time until it leaves, without a terminal'
complete -c ttybroker -n '__ttybroker_in term' -l send -r -F -d 'First send a file by ZMODEM'
complete -c ttybroker -n '__ttybroker_in term' -l profile -x -a '(__ttybroker_profiles)' -d 'Use a profile'
complete -c ttybroker -n '__ttybroker_in term' -l log -r -F -d 'Append what comes to a file'
complete -c ttybroker -n '__ttybroker_in term' -l timestamps -x -a 'iso delta none' -d 'Begin lines with times'
complete -c ttybroker -n '__ttybroker_in term' -l hex -d 'Show numbers'
complete -c ttybroker -n '__ttybroker_in term' -l no-hex -d 'Not so'
complete -c ttybroker -n '__ttybroker_in term' -l eol -x -a 'cr lf crlf' -d 'What Enter sends'
complete -c ttybroker -n '__ttybroker_in term' -s e -l echo -d 'Show what is typed'
complete -c ttybroker -n '__ttybroker_in term' -l no-echo -d 'Not so'
complete -c ttybroker -n '__ttybroker_in term' -l filter -x -a 'default direct nocontrol printable colorize debug' -d 'Filter of miniterm'
complete -c ttybroker -n '__ttybroker_in term' -l encoding -x -d 'Encoding of the line'
complete -c ttybroker -n '__ttybroker_in term' -l raw -d 'No encoding and no filter'
complete -c ttybroker -n '__ttybroker_in term' -l no-raw -d 'Not so'
complete -c ttybroker -n '__ttybroker_in term' -s q -l quiet -d 'Only errors'
complete -c ttybroker -n '__ttybroker_in term' -l no-quiet -d 'Not so'
complete -c ttybroker -n '__ttybroker_in term' -l exit-char -x -d 'The character that ends it'
complete -c ttybroker -n '__ttybroker_in term' -l menu-char -x -d 'The character of the menu'
complete -c ttybroker -n '__ttybroker_in revoke' -l hold -x -d 'Keep it from its user for that many seconds'
complete -c ttybroker -n '__ttybroker_in check' -l user -x -a '(__fish_complete_users)' -d 'Ask for another user'
complete -c ttybroker -n '__ttybroker_in check' -l broker -d 'How the broker itself is confined'
complete -c ttybrokerd -f
complete -c ttybrokerd -l policy -r -F -d 'Who may use which port'
complete -c ttybrokerd -l socket -r -F -d 'Where to listen'
complete -c ttybrokerd -l lock-dir -x -a '(__fish_complete_directories)' -d 'Where lock files are'
complete -c ttybrokerd -l prepare -d 'Check the policy and write the plan'
complete -c ttybrokerd -l check -d 'Check the policy'
complete -c ttybrokerd -l udev-rules -d 'Print udev rules that keep ModemManager off'
complete -c ttybrokerd -l version -d 'Show the version'
complete -c ttybrokerd -s h -l help -d 'Help'
