import jssc.SerialPort;

public class Jssc {
    public static void main(String[] words) throws Exception {
        SerialPort port = new SerialPort(words[0]);
        port.openPort();
        port.setParams(115200, 8, 1, 0);
        port.writeString("hello");
        System.out.println(port.readString(5));
        port.closePort();
    }
}
